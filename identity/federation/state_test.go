// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/rate"
)

// What is wrong with the file, or with one of those that it names, is no reason not to start:
// the rest is in force, and a domain whose bundle was kept has it.
func TestAFileThatIsWrongDoesNotStopTheCA(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	f := r.open() // without the file
	if !strings.Contains(f.Trouble(), r.file) || len(f.Status()) != 0 {
		t.Errorf("%q, %+v", f.Trouble(), f.Status())
	}
	good := r.spiffe(n)
	r.write(r.file, good)
	if err := r.attempt(r.open(), other); err != nil {
		t.Fatal(err)
	}
	r.write(r.file, good+"- {trustDomain: here.example}\n")
	f = r.open()
	r.wants(other, 1, 1)
	if !strings.Contains(f.Trouble(), "that of this mesh") {
		t.Errorf("%q", f.Trouble())
	}
	r.write(r.file, "[")
	r.open()
	if _, err := os.Stat(statePath(r.state, other)); err != nil {
		t.Errorf("a file that is not understood forgot a bundle: %v", err)
	}
	r.write(r.file, good)
	if err := os.Remove(strings.TrimSuffix(r.file, "federation.yaml") + "other.example.pem"); err != nil {
		t.Fatal(err)
	}
	f = r.open()
	r.wants(other, 1, 1)
	if !strings.Contains(f.Trouble(), "bundleFile") {
		t.Errorf("%q", f.Trouble())
	}
	if err := r.attempt(f, other); err != nil {
		t.Errorf("a bundle that was kept does not vouch for the endpoint: %v", err)
	}
}

// What was kept is asked what is asked of what an endpoint gives.
func TestAStateIsCheckedAgain(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	r.write(r.file, r.spiffe(n))
	third := authority(t, spiffeid.RequireTrustDomainFromString("third.example"))
	for name, roots := range map[string][]*x509.Certificate{"our own root": r.ca.Roots(), "a third domain's": third.Roots(), "none": nil} {
		k := kept{TrustDomain: other.Name(), Sequence: 9, Numbered: true, Fetched: time.Now()}
		for _, root := range roots {
			k.Roots = append(k.Roots, root.Raw)
		}
		if err := k.save(r.state, other); err != nil {
			t.Fatal(err)
		}
		r.open()
		if told, _ := r.told(other); len(told.Roots) != 0 || told.Sequence != 0 {
			t.Errorf("%s: nodes are told %d with %d roots", name, told.Sequence, len(told.Roots))
		}
	}
}

// A domain that left the file while the CA was down begins anew when it comes back.
func TestADomainThatLeftMeanwhileIsForgotten(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	entry := r.spiffe(n)
	r.write(r.file, entry)
	if err := r.attempt(r.open(), other); err != nil {
		t.Fatal(err)
	}
	r.write(r.file, "[]")
	r.open()
	r.write(r.file, entry)
	r.open()
	r.wants(other, 0, 0)
}

// An endpoint that says the same again, or the same under another number, or often something
// else, does not have the CA tell all nodes each time.
func TestAnEndpointDoesNotSetThePaceOfPushes(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	r.write(r.file, r.spiffe(n))
	f := r.open()
	fetch := func(sequence uint64, roots ...*x509.Certificate) (told bool) {
		t.Helper()
		changed := r.ca.Changed()
		n.says(t, sequence, roots...)
		if err := r.attempt(f, other); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	if !fetch(1, n.Roots()...) {
		t.Error("nodes are not told of the first bundle")
	}
	for sequence := uint64(1); sequence < 20; sequence++ {
		if fetch(sequence, n.Roots()...) {
			t.Errorf("nodes are told of the number %d alone", sequence)
		}
	}
	both := append(n.Roots(), authority(t, other).Roots()...)
	if !fetch(20, both...) {
		t.Error("nodes are not told of another root")
	}
	r.wants(other, 20, 2)
	times := 0
	for i := range uint64(40) {
		if fetch(21+i, both[:1+i%2]...) {
			times++
		}
	}
	if times > 30 {
		t.Errorf("nodes are told %d times of 40 changes", times)
	}
	last := authority(t, other).Roots()
	fetch(100, append(last, both...)...)
	f.mu.Lock()
	f.pace = rate.Left{} // time goes by
	f.mu.Unlock()
	f.publish()
	r.wants(other, 100, 3)
	fetch(101, append(last, both...)...)
	f.mu.Lock()
	f.toldAt = f.toldAt.Add(-numberEvery)
	f.mu.Unlock()
	f.publish()
	r.wants(other, 101, 3)
}

// A root of the bundle file that the domain has dropped would vouch again for a CA that kept
// nothing: it is told.
func TestABundleFileWithDroppedRootsIsTold(t *testing.T) {
	r, n := newRig(t), newNeighbour(t, other)
	r.write(r.file, r.spiffe(n))
	f := r.open()
	wants := func(dropped int) {
		t.Helper()
		if err := r.attempt(f, other); err != nil {
			t.Fatal(err)
		}
		if is := f.Status()[0].Dropped; is != dropped {
			t.Errorf("%d roots of the file were dropped, want %d", is, dropped)
		}
	}
	wants(0)
	r.pem("other.example.pem", append(n.Roots(), authority(t, other).Roots()...)...)
	wants(1)
	r.pem("other.example.pem", n.Roots()...)
	wants(0)
}

// Policies that were copied from elsewhere name cluster.local for their own mesh.
func TestADomainThatIsCalledAsUsualIsWarnedOf(t *testing.T) {
	r := newRig(t)
	for domain, want := range map[string]bool{"cluster.local": true, "other.example": false} {
		var said strings.Builder
		r.write(r.file, "- {trustDomain: "+domain+", url: 'https://127.0.0.1:1/', profile: https_web}\n")
		if _, err := New(Options{CA: r.ca, File: r.file, Log: slog.New(slog.NewTextHandler(&said, nil))}); err != nil {
			t.Fatal(err)
		}
		if is := strings.Contains(said.String(), "principals of cluster.local"); is != want {
			t.Errorf("%s: %s", domain, &said)
		}
	}
}
