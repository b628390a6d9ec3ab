// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	flannel = `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"flannel"},{"type":"portmap"}]}`
	calico  = `{"cniVersion":"1.0.0","name":"k8s-pod-network","plugins":[{"type":"calico"}]}`
	cilium  = `{"cniVersion":"1.0.0","name":"cilium","plugins":[{"type":"cilium-cni"}]}`
	ovn     = `{"cniVersion":"0.4.0","name":"ovn-kubernetes","type":"ovn-k8s-cni-overlay","logLevel":"%d"}`
)

func TestThePluginWaitsForAPrimaryCNIThatComesLater(t *testing.T) {
	n := newNode(t)
	in, _ := n.run()
	get := serve(t, in)
	n.wantLog("a primary CNI has to come first")
	if code, body := get("/healthz/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, n.conf+": no CNI config yet") {
		t.Errorf("%d %s", code, body)
	}
	if got := contents(t, n.bin)["culvert-cni"]; got != "version 1" {
		t.Errorf("the program is %q before the first list", got)
	}
	n.writes("10-flannel.conflist", flannel)
	n.wantChain("the primary CNI came", "flannel", "portmap", "culvert-cni")
	await(t, "ready", func() string {
		if code, body := get("/healthz/ready"); code != http.StatusOK {
			return body
		}
		return ""
	})
	_, metrics := get("/metrics")
	for _, line := range []string{"culvert_cni_installed 1\n", "culvert_cni_fight 0\n", `culvert_cni_repairs_total{what="entry"} 0`, "culvert_cni_failures_total 0\n"} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %q in\n%s", line, metrics)
		}
	}
}

func TestWhatAnotherProgramTakesAwayComesBack(t *testing.T) {
	n := newNode(t)
	program := filepath.Join(n.bin, "culvert-cni")
	n.writes("10-flannel.conflist", flannel)
	in, _ := n.run()
	get := serve(t, in)
	n.wantChain("at first", "flannel", "portmap", "culvert-cni")
	right := func() string {
		st, err := os.Lstat(program)
		if err != nil || !st.Mode().IsRegular() || st.Mode().Perm() != 0o755 || contents(t, n.bin)["culvert-cni"] != "version 1" {
			return fmt.Sprintf("%v, %v\n%s", st, err, n.log)
		}
		return ""
	}
	for what, harm := range map[string]func() error{
		"removed":     func() error { return os.Remove(program) },
		"overwritten": func() error { return os.WriteFile(program, []byte("something else"), 0o755) },
		"not to run":  func() error { return os.Chmod(program, 0o644) },
		"a link": func() error {
			link := filepath.Join(n.bin, "link")
			return errors.Join(os.Symlink(n.program, link), os.Rename(link, program))
		},
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		await(t, what, right)
	}
	n.writes("10-flannel.conflist", flannel)
	n.wantChain("its owner wrote the config anew", "flannel", "portmap", "culvert-cni")
	n.writes("05-calico.conflist", calico)
	n.wantChain("another CNI came before it", "calico", "culvert-cni")
	if _, metrics := get("/metrics"); !strings.Contains(metrics, `culvert_cni_repairs_total{what="binary"} 4`) {
		t.Errorf("%s", metrics)
	}
}

func TestTheEndOfTheInstallerChangesNothing(t *testing.T) {
	n := newNode(t)
	n.writes("10-flannel.conflist", flannel)
	_, stop := n.run()
	n.wantLog("the plugin is in the list of plugins, last")
	conf, bin := contents(t, n.conf), contents(t, n.bin)
	stop()
	if diff := cmp.Diff(conf, contents(t, n.conf)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(bin, contents(t, n.bin)); diff != "" {
		t.Error(diff)
	}
}

func TestAnUpgradeReplacesProgramAndEntry(t *testing.T) {
	n := newNode(t)
	n.writes("10-flannel.conflist", flannel)
	_, stop := n.run()
	n.wantChain("version 1", "flannel", "portmap", "culvert-cni")
	stop()
	put(t, n.program, "version 2")
	put(t, filepath.Join(n.conf, temporary+"123"), "left by a kill")
	put(t, filepath.Join(n.bin, temporary+"123"), "left by a kill")
	n.entry = `{"type":"culvert-cni","socket":"/run/other/enroll.sock"}`
	n.run()
	await(t, "version 2", func() string {
		return cmp.Diff([]map[string]string{
			{"10-flannel.conflist": strings.Replace(flannel, `{"type":"portmap"}`, `{"type":"portmap"},`+n.entry, 1)},
			{"culvert-cni": "version 2"},
		}, []map[string]string{contents(t, n.conf), contents(t, n.bin)})
	})
}

func TestADirectoryThatIsReplacedIsWatchedAnew(t *testing.T) {
	n := newNode(t)
	n.poll = 20 * time.Millisecond
	n.writes("10-flannel.conflist", flannel)
	n.run()
	n.wantChain("at first", "flannel", "portmap", "culvert-cni")
	if err := os.Rename(n.conf, n.conf+".old"); err != nil {
		t.Fatal(err)
	}
	n.wantLog("the plugin is not in place")
	if err := os.Mkdir(n.conf, 0o755); err != nil {
		t.Fatal(err)
	}
	n.writes("10-calico.conflist", calico)
	n.wantChain("in the new directory", "calico", "culvert-cni")
}

func TestOfTwoInstallersOneWaits(t *testing.T) {
	n := newNode(t)
	_, stop := n.run()
	n.wantLog("a primary CNI has to come first")
	put(t, n.program, "version 2")
	second, _ := n.run()
	get := serve(t, second)
	await(t, "the second waits", func() string {
		if _, body := get("/healthz/ready"); !strings.Contains(body, n.conf+": in use by another culvert-cni install on this node") {
			return body
		}
		return ""
	})
	if got := contents(t, n.bin)["culvert-cni"]; got != "version 1" {
		t.Errorf("the program is %q", got)
	}
	stop()
	await(t, "the first is gone", func() string {
		if got := contents(t, n.bin)["culvert-cni"]; got != "version 2" {
			return got
		}
		return ""
	})
}
