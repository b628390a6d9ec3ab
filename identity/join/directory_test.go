// SPDX-License-Identifier: Apache-2.0

package join_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/join/jointest"
)

func TestADirectoryIsAStore(t *testing.T) {
	jointest.Conformance(t, func(t *testing.T) func() join.Store {
		dir := t.TempDir()
		return func() join.Store { return join.Directory(dir) }
	})
}

// An operator makes tokens as root, where the CA runs as another user.
func TestATokenOfRootIsTheDirectoryOwners(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, 65532, 65531); errors.Is(err, os.ErrPermission) {
		t.Skipf("no file may be given to another user here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	_, record, err := join.Create(t.Context(), join.Directory(dir), join.Options{Identity: jointest.Batch, TTL: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, record.ID+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Sys().(*syscall.Stat_t); got.Uid != 65532 || got.Gid != 65531 || st.Mode().Perm() != 0o600 {
		t.Errorf("it is of %d:%d with the mode %04o", got.Uid, got.Gid, st.Mode().Perm())
	}
}
