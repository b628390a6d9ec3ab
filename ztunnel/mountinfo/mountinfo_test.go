// SPDX-License-Identifier: Apache-2.0

package mountinfo

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMountsAreReadAsTheKernelWritesThem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mountinfo")
	text := `22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
29 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate
40 31 0:37 / /cg/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /cg/unified rw,relatime - cgroup2 cgroup2 rw
35 22 0:31 /a\134b /mnt/with\040space\011and\012more rw - bpf none rw,mode=700
410 27 0:4 net:[4026532291] /run/netns/web rw shared:1 - nsfs nsfs rw
cut short
1 2 3 / - none
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	want := []Mount{
		{"/", "/sys", "sysfs"}, {"/", "/sys/fs/cgroup", "cgroup2"},
		{"/", "/cg/systemd", "cgroup"}, {"/", "/cg/unified", "cgroup2"}, // of a host with both versions
		{`/a\b`, "/mnt/with space\tand\nmore", "bpf"}, {"net:[4026532291]", "/run/netns/web", "nsfs"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestProcIsMountedHere(t *testing.T) {
	found, err := OfType("proc")
	if err != nil || !slices.Contains(found, Mount{"/", "/proc", "proc"}) {
		t.Errorf("got %q, %v", found, err)
	}
	if _, err := Read("/proc/self/no-such-file"); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}
