// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A node has hundreds of identities: a rotation must not wake those that export another.
func TestAnExportIsToldOfItsOwnIdentityAndOfTheBundle(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		release := r.Hold(web)
		hold(t, r, db)
		synctest.Wait()
		export := func() <-chan struct{} {
			t.Helper()
			e, changed, err := r.Export(t.Context(), web)
			if err != nil || len(e.Key) == 0 || len(e.Roots) != 1 || !bytes.Equal(e.Chain[0], r.leaf(web).Raw) {
				t.Fatalf("%d roots, %v", len(e.Roots), err)
			}
			return changed
		}
		renew := func(id spiffeid.ID) {
			r.Store.mu.Lock()
			r.entries[id].due = time.Now()
			r.Store.mu.Unlock()
			r.poke()
			synctest.Wait()
		}
		changed := export()
		roots, another := r.ExportBundle()
		if len(roots) != 1 {
			t.Errorf("%d roots", len(roots))
		}
		renew(db)
		if told(changed) {
			t.Error("it is told of another's rotation")
		}
		renew(web)
		if !told(changed) || told(another) {
			t.Errorf("a rotation: told %t, and whoever has the bundle only %t", told(changed), told(another))
		}
		changed = export()
		r.say(t, 2, append(newCA(t, td).Roots(), r.issuer.ca.Roots()...))
		if !told(changed) || !told(another) {
			t.Errorf("another bundle: told %t, and whoever has the bundle only %t", told(changed), told(another))
		}
		if roots, _ := r.ExportBundle(); len(roots) != 2 {
			t.Errorf("%d roots, want both", len(roots))
		}
		_, changed, err := r.Export(t.Context(), web)
		if err != nil {
			t.Fatal(err)
		}
		release()
		if !told(changed) {
			t.Error("nobody says that the identity is gone")
		}
		if _, _, err := r.Export(t.Context(), web); err == nil {
			t.Error("an identity that nobody holds is exported")
		}
	})
}

func told(changed <-chan struct{}) bool {
	select {
	case <-changed:
		return true
	default:
		return false
	}
}
