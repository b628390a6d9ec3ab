// SPDX-License-Identifier: Apache-2.0

package unixsocket

import (
	"os"
	"path/filepath"
	"testing"
)

// One that ends while the directory is looked after must not come back.
func TestAClosedSocketIsNotOpenedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "a.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if replaced, err := ln.Keep(); replaced || err != nil {
		t.Errorf("in place: replaced %v, %v", replaced, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if replaced, err := ln.Keep(); !replaced || err != nil {
		t.Errorf("removed: replaced %v, %v", replaced, err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	os.Remove(path)
	if replaced, err := ln.Keep(); replaced || err != nil {
		t.Errorf("closed: replaced %v, %v", replaced, err)
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("a closed socket accepts")
	}
}
