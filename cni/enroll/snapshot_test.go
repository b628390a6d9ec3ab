// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

func known() Snapshot {
	return Snapshot{
		Generation:       7,
		Written:          time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		MeshedNamespaces: []string{"shop"},
		AllNamespaces:    []string{"default", "kube-system", "shop"},
		OwnPod:           Pod{Namespace: "culvert-system", Name: "ztunnel-x7k2p", UID: "u1"},
	}
}

func TestSnapshotIsReadBackAsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot.json")
	if err := WriteSnapshot(path, known()); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(known(), got); diff != "" {
		t.Error(diff)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("mode %#o: %v", st.Mode&0o777, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestSnapshotWithAMeshedNamespaceThatIsNotListedIsRefused(t *testing.T) {
	s := known()
	s.AllNamespaces = []string{"default"}
	err := WriteSnapshot(filepath.Join(t.TempDir(), "snapshot.json"), s)
	if err == nil || !strings.Contains(err.Error(), `meshedNamespaces: "shop" is not in allNamespaces`) {
		t.Error(err)
	}
}

func TestReadSnapshotRefusesWhatOthersCouldHaveWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(path string) error
		want   string
	}{
		"group writes":   {func(p string) error { return os.Chmod(p, 0o660) }, "mode 0660, writable by others"},
		"a symlink":      {func(p string) error { return errors.Join(os.Rename(p, p+".0"), os.Symlink(p+".0", p)) }, "too many levels"},
		"a fifo":         {func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) }, "not a regular file"},
		"half a file":    {func(p string) error { return os.Truncate(p, 20) }, "not a whole JSON object"},
		"an empty file":  {func(p string) error { return os.Truncate(p, 0) }, "not a whole JSON object"},
		"another schema": {func(p string) error { return os.WriteFile(p, []byte(`{"namespaces":[]}`), 0o600) }, `unknown field "namespaces"`},
		"no lists":       {func(p string) error { return os.WriteFile(p, []byte(`{}`), 0o600) }, "allNamespaces are required"},
	} {
		path := filepath.Join(t.TempDir(), "snapshot.json")
		if err := WriteSnapshot(path, known()); err != nil {
			t.Fatal(err)
		}
		if err := tc.change(path); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSnapshot(path); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := ReadSnapshot(filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestReadSnapshotRefusesAnotherUsersFile(t *testing.T) {
	env.Need(t, env.Netns)
	path := filepath.Join(t.TempDir(), "snapshot.json")
	if err := WriteSnapshot(path, known()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSnapshot(path); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Error(err)
	}
}

func TestOnAFullDiskTheOldSnapshotStays(t *testing.T) {
	env.Need(t, env.Netns) // its probe proves that we may mount, too
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "snapshot.json")
	if err := WriteSnapshot(path, known()); err != nil {
		t.Fatal(err)
	}
	big := known()
	for i := range 10_000 {
		big.AllNamespaces = append(big.AllNamespaces, fmt.Sprintf("namespace-%d", i))
	}
	err := WriteSnapshot(path, big)
	if err == nil || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), "the one of before stays") {
		t.Errorf("full disk: %v", err)
	}
	got, err := ReadSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(known(), got); diff != "" {
		t.Error(diff)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".snapshot-*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}
