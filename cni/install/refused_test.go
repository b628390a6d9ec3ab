// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestWhatCannotBeChainedIsNamed(t *testing.T) {
	for name, tc := range map[string]struct{ file, text, want string }{
		"half written":          {"10-a.conflist", `{"cniVersion":"1.0.0","na`, "10-a.conflist is half written or no JSON: unexpected end"},
		"empty":                 {"10-a.conflist", ``, "10-a.conflist is half written or no JSON"},
		"two objects":           {"10-a.conflist", flannel + flannel, "10-a.conflist is half written or no JSON: invalid character '{' after"},
		"no object":             {"10-a.conflist", `[]`, "10-a.conflist: want an object"},
		"no plugins":            {"10-a.conflist", `{"name":"n","cniVersion":"1.0.0"}`, "10-a.conflist: plugins: missing"},
		"plugins of none":       {"10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[]}`, "plugins: empty"},
		"plugins of another":    {"10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":{}}`, "plugins: want an array"},
		"only ours":             {"10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"culvert-cni"}]}`, "plugins: no plugin but culvert-cni"},
		"a plugin without type": {"10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"},{"typ":"b"}]}`, "plugins[1]: no type"},
		"a plugin of text":      {"10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":["a"]}`, "plugins[0]: want an object"},
		"no name":               {"10-a.conflist", `{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}`, "10-a.conflist: name: missing"},
		"a version before chains": {"10-a.conflist", `{"name":"n","cniVersion":"0.2.0","plugins":[{"type":"a"}]}`,
			`10-a.conflist: cniVersion: "0.2.0": culvert-cni speaks 0.3.0, 0.3.1`},
		"no version":             {"10-a.conflist", `{"name":"n","plugins":[{"type":"a"}]}`, `cniVersion: ""`},
		"a list called .conf":    {"10-a.conf", flannel, "10-a.conf: no type: a list of plugins is called .conflist"},
		"a single without name":  {"10-a.conf", `{"type":"a","cniVersion":"1.0.0"}`, "10-a.conf: name: missing"},
		"multus of nobody":       {"00-multus.conf", `{"type":"multus","name":"m","cniVersion":"1.0.0"}`, "00-multus.conf: neither delegates nor clusterNetwork"},
		"multus of no delegates": {"00-multus.conf", `{"type":"multus","name":"m","cniVersion":"1.0.0","delegates":[]}`, "00-multus.conf: delegates: want an array"},
		"multus of elsewhere": {"00-multus.conf", `{"type":"multus-shim","name":"m","cniVersion":"1.0.0","clusterNetwork":"/run/multus/cni/net.d/10-ovn-kubernetes.conf"}`,
			"00-multus.conf: clusterNetwork: /run/multus/cni/net.d/10-ovn-kubernetes.conf is no .conflist of this directory"},
		"multus of old delegates": {"00-multus.conf", `{"type":"multus","name":"m","cniVersion":"1.0.0","delegates":[{"type":"a","name":"n"}]}`, `00-multus.conf: delegates[0]: cniVersion: ""`},
	} {
		n := newNode(t)
		put(t, filepath.Join(n.conf, tc.file), tc.text)
		put(t, filepath.Join(n.conf, "99-second.conflist"), flannel)
		before := contents(t, n.conf)
		in := n.installer()
		first, second := in.look(time.Now()), in.look(time.Now())
		if first != time.Second || second != 2*time.Second {
			t.Errorf("%s: looked at again after %v and %v", name, first, second)
		}
		if !strings.Contains(in.status.problem, tc.want) || in.status.ready || !strings.Contains(in.status.problem, n.conf) {
			t.Errorf("%s: the problem is %q, want %q", name, in.status.problem, tc.want)
		}
		if strings.Count(n.log.String(), "the plugin is not in place") != 1 {
			t.Errorf("%s: not logged once, at the second look: %s", name, n.log)
		}
		if diff := cmp.Diff(before, contents(t, n.conf)); diff != "" {
			t.Errorf("%s: changed\n%s", name, diff)
		}
	}
}

func TestAFullDiskLosesNothingAndIsTriedAgain(t *testing.T) {
	n := newNode(t)
	mount(t, n.conf, "size=16k")
	n.writes("10-flannel.conflist", flannel)
	filler := filepath.Join(n.conf, "filler")
	if err := os.WriteFile(filler, make([]byte, 64<<10), 0o644); err == nil {
		t.Fatal("the disk is not full")
	}
	in := n.installer()
	in.look(time.Now())
	if want := "write " + filepath.Join(n.conf, "10-flannel.conflist") + ": no space left on device"; in.status.problem != want {
		t.Errorf("the problem is %q, want %q", in.status.problem, want)
	}
	all := contents(t, n.conf)
	delete(all, "filler")
	if diff := cmp.Diff(map[string]string{"10-flannel.conflist": flannel}, all); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	in.look(time.Now())
	n.wantChain("there is room again", "flannel", "portmap", "culvert-cni")
}

func TestADirectoryThatCannotBeWrittenIsNamed(t *testing.T) {
	for _, tc := range []struct {
		name string
		dir  func(n *node) string
		file string
	}{
		{"plugins", func(n *node) string { return n.bin }, "culvert-cni"},
		{"configs", func(n *node) string { return n.conf }, "10-flannel.conflist"},
	} {
		n := newNode(t)
		dir := tc.dir(n)
		mount(t, dir, "")
		n.writes("10-flannel.conflist", flannel)
		remount(t, dir, unix.MS_RDONLY)
		in := n.installer()
		in.look(time.Now())
		if want := "write " + filepath.Join(dir, tc.file) + ": read-only file system"; in.status.problem != want {
			t.Errorf("%s: the problem is %q, want %q", tc.name, in.status.problem, want)
		}
		if len(n.chain()) != 2 {
			t.Errorf("%s: a list names a program that may be missing: %q", tc.name, n.chain())
		}
		remount(t, dir, 0)
		in.look(time.Now())
		n.wantChain(tc.name, "flannel", "portmap", "culvert-cni")
	}
}

func mount(t *testing.T, dir, options string) {
	t.Helper()
	env.Need(t, env.Netns) // whoever may do that may mount
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func remount(t *testing.T, dir string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatal(err)
	}
}

func TestAConfigThatIsWrongIsRefusedByField(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(n.conf, "file")
	put(t, file, "")
	for _, tc := range []struct {
		change func(c *Config)
		want   string
	}{
		{func(c *Config) { c.ConfDir = "" }, `conf-dir: want an absolute path, got ""`},
		{func(c *Config) { c.ConfDir = "net.d" }, `conf-dir: want an absolute path, got "net.d"`},
		{func(c *Config) { c.ConfDir = n.conf + "/none" }, "conf-dir: " + n.conf + "/none: no such file or directory"},
		{func(c *Config) { c.BinDir = "./bin" }, `bin-dir: want an absolute path, got "./bin"`},
		{func(c *Config) { c.BinDir = file }, "bin-dir: " + file + " is not a directory"},
		{func(c *Config) { c.Entry = []byte(`{"socket":"/x"}`) }, "entry: want an object whose type"},
		{func(c *Config) { c.Entry = []byte(`{"type":"../x"}`) }, "entry: want an object whose type"},
	} {
		c := n.config()
		tc.change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
}
