// SPDX-License-Identifier: Apache-2.0

package rekey_test

import (
	"context"
	"crypto"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/identity/rekey/rekeytest"
	"github.com/culvert-mesh/culvert/identity/signing/signingtest"
	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

func TestARekeyInADirectorySurvives(t *testing.T) {
	rekeytest.Survive(t, func(t *testing.T) rekeytest.Place {
		d := &directory{filepath.Join(t.TempDir(), "ca"), map[string]*rekey.Files{}}
		t.Cleanup(func() {
			for name, board := range d.boards {
				_ = board.Put(context.Background(), name, nil)
			}
		})
		return d
	}, func(t testing.TB, key crypto.Signer) rekeytest.Signer { return signingtest.Serve(t, key) })
}

// directory is one that two processes share.
type directory struct {
	dir    string
	boards map[string]*rekey.Files
}

func (d *directory) Store() ca.Store { return ca.Directory{Path: d.dir} }

// Board is a process's. The kernel lets go of what the one before had locked.
func (d *directory) Board(name string) rekey.Board {
	if before := d.boards[name]; before != nil {
		_ = before.Put(context.Background(), name, nil)
	}
	d.boards[name] = &rekey.Files{Dir: d.dir}
	return d.boards[name]
}

func (d *directory) Lead(string) func(context.Context) error { return nil }
