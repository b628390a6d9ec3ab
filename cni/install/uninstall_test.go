// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUninstallTakesTheEntriesFirstAndThenTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // as long as files are read, Grace does not pass
		n := newNode(t)
		chained := strings.Replace(flannel, `{"type":"portmap"}`, `{"type":"portmap"},`+entryText, 1)
		put(t, filepath.Join(n.conf, "10-flannel.conflist"), chained)
		put(t, filepath.Join(n.conf, "20-once-the-first.conflist"), chained)
		put(t, filepath.Join(n.conf, "30-flannel.conflist.cilium_bak"), chained)
		put(t, filepath.Join(n.conf, "40-ovn.conf"), fmt.Sprintf(ovn, 4))
		put(t, filepath.Join(n.conf, "40-ovn-culvert.conflist"), chained)
		put(t, filepath.Join(n.conf, "50-ovn-culvert.conflist.cilium_bak"), chained)
		put(t, filepath.Join(n.conf, "60-broken.conflist"), "not ours, so not our concern")
		put(t, filepath.Join(n.conf, temporary+"1"), "left by a kill")
		put(t, filepath.Join(n.conf, "README"), "culvert-cni")
		put(t, filepath.Join(n.bin, "culvert-cni"), "version 1")
		put(t, filepath.Join(n.bin, "portmap"), "another's")

		done := make(chan error)
		go func() {
			done <- Uninstall(context.Background(), Removal{Config: n.config(), CacheDir: n.cache, Grace: 300 * time.Millisecond})
		}()
		n.wantChain("the entry goes", "flannel", "portmap")
		for _, file := range []string{"20-once-the-first.conflist", "30-flannel.conflist.cilium_bak"} {
			await(t, file, func() string { return cmp.Diff(flannel, contents(t, n.conf)[file]) })
		}
		if got := names(contents(t, n.bin)); len(got) != 2 {
			t.Errorf("the program went before runtimes could read the lists: %q", got)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"10-flannel.conflist": flannel, "20-once-the-first.conflist": flannel, "30-flannel.conflist.cilium_bak": flannel,
			"40-ovn.conf": fmt.Sprintf(ovn, 4), "60-broken.conflist": "not ours, so not our concern", "README": "culvert-cni",
		}
		if diff := cmp.Diff([]map[string]string{want, {"portmap": "another's"}}, []map[string]string{contents(t, n.conf), contents(t, n.bin)}); diff != "" {
			t.Error(diff)
		}
		if err := n.uninstall(); err != nil {
			t.Errorf("a second time: %v", err)
		}
	})
}

func TestUninstallFindsTheEntryWhereMultusDelegates(t *testing.T) {
	n := newNode(t)
	multus := `{"type":"multus","name":"m","cniVersion":"1.0.0","delegates":[%s,{"type":"x"}],"other":{"plugins":7}}`
	chained := strings.Replace(flannel, `{"type":"portmap"}`, `{"type":"portmap"},`+entryText, 1)
	put(t, filepath.Join(n.conf, "00-multus.conf"), fmt.Sprintf(multus, chained))
	put(t, filepath.Join(n.conf, "01-multus.conflist"), `{"name":"l","plugins":[`+fmt.Sprintf(multus, chained)+`,`+entryText+`]}`)
	if err := n.uninstall(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"00-multus.conf": fmt.Sprintf(multus, flannel), "01-multus.conflist": `{"name":"l","plugins":[` + fmt.Sprintf(multus, flannel) + `]}`}
	if diff := cmp.Diff(want, contents(t, n.conf)); diff != "" {
		t.Error(diff)
	}
}

// Multus's daemon writes its config of the first other one, and is late.
func TestUninstallLooksAgainBeforeTheProgramGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // as long as files are read, Grace does not pass
		n := newNode(t)
		chained := strings.Replace(flannel, `{"type":"portmap"}`, `{"type":"portmap"},`+entryText, 1)
		for _, tc := range []struct {
			copies int
			want   string
		}{
			{1, ""},
			{passes, "another program puts the plugin back into a list of " + n.conf + " again and again; the program stays"},
		} {
			n.writes("00-copy.conflist", chained)
			put(t, filepath.Join(n.bin, "culvert-cni"), "version 1")
			done := make(chan error)
			go func() {
				done <- Uninstall(context.Background(), Removal{Config: n.config(), CacheDir: n.cache, Grace: 700 * time.Millisecond})
			}()
			for range tc.copies {
				await(t, "the entry goes", func() string { return cmp.Diff(flannel, contents(t, n.conf)["00-copy.conflist"]) })
				n.writes("00-copy.conflist", chained)
			}
			if err := <-done; tc.want == "" && err != nil || tc.want != "" && (err == nil || err.Error() != tc.want) {
				t.Errorf("%d copies: %v, want %q", tc.copies, err, tc.want)
			}
			names := contents(t, n.conf)["00-copy.conflist"] == chained
			if _, there := contents(t, n.bin)["culvert-cni"]; there != names {
				t.Errorf("%d copies: a list names the program: %v; it is there: %v", tc.copies, names, there)
			}
		}
	})
}

func TestTheProgramStaysWhereAListMayNameIt(t *testing.T) {
	n := newNode(t)
	put(t, filepath.Join(n.bin, "culvert-cni"), "version 1")
	broken := filepath.Join(n.conf, "20-broken.conflist")
	put(t, broken, `{"plugins":[{"type":"culvert-cni"`)
	put(t, filepath.Join(n.conf, "10-flannel.conflist"), flannel)
	if err := n.uninstall(); err == nil || !strings.Contains(err.Error(), broken+" names culvert-cni and is half written or no JSON; the program stays") {
		t.Errorf("%v", err)
	}
	if got := contents(t, n.bin); len(got) != 1 {
		t.Errorf("it is gone: %v", got)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if err := n.uninstall(); err != nil || len(contents(t, n.bin)) != 0 {
		t.Errorf("%v, %v", err, contents(t, n.bin))
	}
}

// CRI-O and Multus end a sandbox with the list of plugins that it was started
// with, and not without each of its programs.
func TestTheProgramStaysUntilTheLastSandboxThatNeedsItEnded(t *testing.T) {
	for of, text := range map[string]string{
		"results": `{"kind":"cniCacheV1","containerId":"c","config":"` + base64.StdEncoding.EncodeToString([]byte(`{"plugins":[`+entryText+`]}`)) + `","ifName":"eth0"}`,
		"multus":  `[{"Conf":{},"ConfList":{"plugins":[{"type":"a"},{"type":"culvert-cni"}]}}]`,
	} {
		n := newNode(t)
		put(t, filepath.Join(n.bin, "culvert-cni"), "version 1")
		dir := filepath.Join(n.cache, of)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, "cbr0-c-eth0"), text)
		put(t, filepath.Join(dir, "cbr0-d-eth0"), `{"kind":"cniCacheV1","containerId":"d","config":"e30=","ifName":"eth0"}`)
		put(t, filepath.Join(dir, "cbr0-e-eth0"), `no JSON`)
		put(t, filepath.Join(n.conf, "10-flannel.conflist"), strings.Replace(flannel, `]`, `,`+entryText+`]`, 1))
		if err := n.uninstall(); err != nil {
			t.Fatal(err)
		}
		if len(n.chain()) != 2 || len(contents(t, n.bin)) != 1 || !strings.Contains(n.log.String(), "pods=1") {
			t.Errorf("%s: chain %q, programs %v\n%s", of, n.chain(), contents(t, n.bin), n.log)
		}
		if err := os.Remove(filepath.Join(dir, "cbr0-c-eth0")); err != nil {
			t.Fatal(err)
		}
		if err := n.uninstall(); err != nil || len(contents(t, n.bin)) != 0 {
			t.Errorf("%s: %v, %v", of, err, contents(t, n.bin))
		}
	}
}

func TestUninstallIsRefusedWhileAnInstallerWouldPutAllBack(t *testing.T) {
	n := newNode(t)
	n.writes("10-flannel.conflist", flannel)
	_, stop := n.run()
	n.wantChain("installed", "flannel", "portmap", "culvert-cni")
	if err := n.uninstall(); err == nil || !strings.Contains(err.Error(), n.conf+": in use by another culvert-cni install on this node") {
		t.Errorf("%v", err)
	}
	n.wantChain("still installed", "flannel", "portmap", "culvert-cni")
	stop()
	if err := n.uninstall(); err != nil {
		t.Error(err)
	}
	n.wantChain("uninstalled", "flannel", "portmap")
}

func TestUninstallSaysWhichDirectoryIsMissing(t *testing.T) {
	n := newNode(t)
	n.cache += "/none"
	if err := n.uninstall(); err == nil || err.Error() != "cache-dir: "+n.cache+": no such file or directory" {
		t.Errorf("%v", err)
	}
}
