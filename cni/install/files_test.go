// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheEntryIsLastAndOnceWhateverWasThere(t *testing.T) {
	e := entry{"culvert-cni", []byte(entryText), versions}
	old := `{"type":"culvert-cni","socket":"/old"}`
	for plugins, want := range map[string]string{
		`[{"type":"a"}]`:                                            `[{"type":"a"},` + entryText + `]`,
		`[ ` + old + ` , {"type":"a"} ]`:                            `[ {"type":"a"}, ` + entryText + ` ]`,
		`[{"type":"a"},` + old + `,{"type":"b"}]`:                   `[{"type":"a"},{"type":"b"},` + entryText + `]`,
		`[` + old + `,` + old + `,{"type":"a"},` + old + `]`:        `[{"type":"a"},` + entryText + `]`,
		`[{"type":"a"},` + entryText + `,` + entryText + `]`:        `[{"type":"a"},` + entryText + `]`,
		`[{"type":"a"},` + entryText + `,{"type":"b"}]`:             `[{"type":"a"},{"type":"b"},` + entryText + `]`,
		"[{\"type\":\"a\"},\r\n{\"type\":\"b\"}]":                   "[{\"type\":\"a\"},\r\n{\"type\":\"b\"},\r\n{\n  \"type\": \"culvert-cni\",\n  \"ownPod\": \"culvert-system/ztunnel-\"\n}]",
		`[{"type":"a"}, {"ownPod":"x/y-", "type": "culvert-cni" }]`: `[{"type":"a"},` + entryText + `]`,
	} {
		list := func(plugins string) string {
			return `{"name":"n","cniVersion":"1.0.0","plugins":` + plugins + `,"k":1}`
		}
		got, err := e.chain([]byte(list(plugins)), whole([]byte(list(plugins))))
		if err != nil || string(got) != list(want) {
			t.Errorf("%s:\n got %s, %v\nwant %s", plugins, got, err, list(want))
		}
	}
}

func TestAHalfWrittenConfigIsTakenWhenItIsWhole(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(n.conf, "10-flannel.conflist")
	put(t, path, flannel[:40])
	in, _ := n.run()
	get := serve(t, in)
	await(t, "the problem", func() string {
		if _, body := get("/healthz/ready"); !strings.Contains(body, path+" is half written") {
			return body
		}
		return ""
	})
	put(t, path, flannel)
	n.wantChain("it is whole", "flannel", "portmap", "culvert-cni")
}

func TestASingleConfigStaysItsOwners(t *testing.T) {
	n := newNode(t)
	single := filepath.Join(n.conf, "10-ovn-kubernetes.conf")
	list := filepath.Join(n.conf, "10-ovn-kubernetes-culvert.conflist")
	n.writes("10-ovn-kubernetes.conf", fmt.Sprintf(ovn, 4))
	if err := os.Chmod(single, 0o600); err != nil {
		t.Fatal(err)
	}
	in, _ := n.run()
	get := serve(t, in)
	n.wantChain("a list stands before it", "ovn-k8s-cni-overlay", "culvert-cni")
	if st, err := os.Stat(list); err != nil || st.Mode() != 0o600 {
		t.Errorf("the list is %v, %v", st, err)
	}
	if got := contents(t, n.conf)["10-ovn-kubernetes.conf"]; got != fmt.Sprintf(ovn, 4) {
		t.Errorf("the config was changed: %s", got)
	}

	added := strings.Replace(contents(t, n.conf)[filepath.Base(list)], `"plugins": [`, `"disableCheck": true, "plugins": [`, 1)
	added = strings.Replace(added, "\n    {\n      \"type\": \"culvert-cni\"", "\n    {\"type\": \"tuning\"},\n    {\n      \"type\": \"culvert-cni\"", 1)
	n.writes(filepath.Base(list), added)
	n.wantChain("what others add stays", "ovn-k8s-cni-overlay", "tuning", "culvert-cni")

	n.writes("10-ovn-kubernetes.conf", fmt.Sprintf(ovn, 5))
	n.wantChain("its owner wrote it anew", "ovn-k8s-cni-overlay", "culvert-cni")
	await(t, "the list follows", func() string {
		if text := contents(t, n.conf)[filepath.Base(list)]; !strings.Contains(text, `"logLevel": "5"`) {
			return text
		}
		return ""
	})
	// The entry was there all the time.
	if _, metrics := get("/metrics"); !strings.Contains(metrics, `culvert_cni_repairs_total{what="entry"} 0`) {
		t.Error(metrics)
	}

	if err := os.Remove(single); err != nil {
		t.Fatal(err)
	}
	await(t, "its owner removed it", func() string { return strings.Join(names(contents(t, n.conf)), " ") })
	n.wantLog("removed the list that was made of a config which is gone")
}

func TestALinkStaysALink(t *testing.T) {
	n := newNode(t)
	n.poll = 20 * time.Millisecond // the directory that the link leads to is not watched
	elsewhere := filepath.Join(t.TempDir(), "flannel.json")
	link := filepath.Join(n.conf, "10-flannel.conflist")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	in, _ := n.run()
	get := serve(t, in)
	await(t, "it leads nowhere", func() string {
		if _, body := get("/healthz/ready"); !strings.Contains(body, link+" is a link to "+elsewhere+", which is not there") {
			return body
		}
		return ""
	})
	for _, text := range []string{flannel, strings.Replace(flannel, "cbr0", "cbr1", 1)} {
		put(t, elsewhere, text)
		n.wantChain("what it leads to was written", "flannel", "portmap", "culvert-cni")
	}
	if to, err := os.Readlink(link); to != elsewhere {
		t.Errorf("the link leads to %q, %v", to, err)
	}
}

func TestModeAndOwnerOfAConfigStay(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(n.conf, "10-flannel.conflist")
	put(t, path, flannel)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	owner := os.Getuid()
	if owner == 0 {
		owner = 1234
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	n.installer().look(time.Now())
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o640 || int(st.Uid) != owner || len(n.chain()) != 3 {
		t.Errorf("mode %#o, uid %d, chain %q", st.Mode, st.Uid, n.chain())
	}
}
