// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var own = spiffeid.RequireTrustDomainFromString("cluster.local")

const good = `
- trustDomain: other.example
  cidrs: [172.20.0.0/16, "fd20::/64"]
  workloads:
  - id: spiffe://other.example/ns/shop/sa/web
    addresses: [172.20.0.7, "fd20::7"]
- trustDomain: third.example
  cidrs: [172.21.0.0/16]
`

func TestAListNamesWorkloadsByTheirWholeIDs(t *testing.T) {
	all, err := Parse([]byte(good), own)
	if err != nil || len(all) != 2 || all[0].TrustDomain.Name() != "other.example" || len(all[0].CIDRs) != 2 || len(all[1].Workloads) != 0 {
		t.Fatalf("%+v, %v", all, err)
	}
	if w := all[0].Workloads; len(w) != 1 || w[0].ID.String() != "spiffe://other.example/ns/shop/sa/web" || len(w[0].Addrs) != 2 {
		t.Errorf("%+v", w)
	}
	if none, err := Parse([]byte("[]"), own); err != nil || len(none) != 0 {
		t.Errorf("no domains: %+v, %v", none, err)
	}
}

// What could have a client take somebody else for its server, or is not known to mean
// anything, is an error with its field.
func TestAListThatIsWrongNamesTheField(t *testing.T) {
	one := func(domain, cidrs, workloads string) string {
		return fmt.Sprintf("- {trustDomain: %s, cidrs: [%s], workloads: [%s]}\n", domain, cidrs, workloads)
	}
	web := func(id, addresses string) string { return fmt.Sprintf("{id: %q, addresses: [%s]}", id, addresses) }
	const other, cidr, id, at = "other.example", "172.20.0.0/16", "spiffe://other.example/ns/shop/sa/web", "172.20.0.7"
	for _, tc := range []struct{ text, says string }{
		{"", "there is no list: want [] for no trust domain"},
		{"a: b", "not a list of {trustDomain, cidrs, workloads}"},
		{"- {trustDomain: other.example, cidr: [172.20.0.0/16]}", `unknown field "[0].cidr"`},
		{one(other, cidr, "") + "---\n" + one("third.example", "172.21.0.0/16", ""), "second document"},
		{"- {TRUSTDOMAIN: third.example, trustDomain: other.example, cidrs: [172.20.0.0/16]}", "unknown field"},
		{one("spiffe://other.example/ns/x", cidr, ""), `[0].trustDomain: "spiffe://other.example/ns/x" is more than a trust domain: want other.example`},
		{one(other, strings.Repeat("172.20.0.0/16, ", 65), ""), "[0].cidrs: 65 of them: want 1 to 64"},
		{one(other, "0.0.0.0/0", ""), "[0].cidrs[0]: 0.0.0.0/0 overlaps 0.0.0.0/8"},
		{one(other, "'::/0'", ""), "overlaps ::/127"},
		{one(other, "127.1.0.0/16", ""), "overlaps 127.0.0.0/8"},
		{one(other, "169.254.169.254/32", ""), "overlaps 169.254.0.0/16"},
		{one(other, "'fe80::/64'", ""), "overlaps fe80::/10"},
		{one(other, "239.0.0.0/8", ""), "overlaps 224.0.0.0/4"},
		{one(other, "'ff02::/16'", ""), "overlaps ff00::/8"},
		{one("cluster.local", cidr, ""), "[0].trustDomain: cluster.local is that of this mesh"},
		{one("'Not a domain'", cidr, ""), "[0].trustDomain: "},
		{one(other, cidr, "") + one(other, "172.21.0.0/16", ""), "[1].trustDomain: other.example is there twice"},
		{one(other, "", web(id, at)), "[0].cidrs: 0 of them"},
		{one(other, "172.20.0.0/33", ""), `[0].cidrs[0]: "172.20.0.0/33" is not a CIDR`},
		{one(other, "172.20.0.1/16", ""), "[0].cidrs[0]: 172.20.0.1/16 has bits behind its length: want 172.20.0.0/16"},
		{one(other, "'::ffff:172.20.0.0/112'", ""), "[0].cidrs[0]: "},
		{one(other, cidr, "") + one("third.example", "172.20.4.0/24", ""), "[1].cidrs[0]: 172.20.4.0/24 overlaps 172.20.0.0/16 of other.example"},
		{one(other, cidr, web("spiffe://cluster.local/ns/shop/sa/web", at)), "[0].workloads[0].id: spiffe://cluster.local/ns/shop/sa/web is not of the trust domain other.example"},
		{one(other, cidr, web("spiffe://third.example/ns/shop/sa/web", at)), "is not of the trust domain other.example"},
		{one(other, cidr, web("other.example/ns/shop/sa/web", at)), "[0].workloads[0].id: "},
		{one(other, cidr, web("spiffe://other.example/ns/shop/sa/*", at)), "[0].workloads[0].id: "},
		{one(other, cidr, web("spiffe://other.example", at)), "[0].workloads[0].id: "},
		{one(other, cidr, web("spiffe://other.example/spire/server", at)), "is not of the form"},
		{one(other, cidr, web(id, "")), "[0].workloads[0].addresses: spiffe://other.example/ns/shop/sa/web has none"},
		{one(other, cidr, web(id, "web.example")), `[0].workloads[0].addresses[0]: "web.example" is not an IP address`},
		{one(other, cidr, web(id, "172.21.0.7")), "[0].workloads[0].addresses[0]: 172.21.0.7 is in none of the domain's cidrs"},
		{one(other, cidr, web(id, at)+", "+web("spiffe://other.example/ns/shop/sa/api", at)), "[0].workloads[1].addresses[0]: 172.20.0.7 is spiffe://other.example/ns/shop/sa/web's already"},
		{strings.Repeat("- {trustDomain: a.example}\n", 17), "there are 17 trust domains, the limit is 16"},
	} {
		if all, err := Parse([]byte(tc.text), own); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %+v, %v; want %q", tc.text, all, err, tc.says)
		}
	}
}

// rig is a file and what follows it.
type rig struct {
	*testing.T
	options Options
	taken   atomic.Pointer[string] // whose the addresses are already; nil: nobody's
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t}
	dir := t.TempDir()
	r.options = Options{
		TrustDomain: own, File: filepath.Join(dir, "foreign.yaml"), Kept: filepath.Join(dir, "kept"),
		Taken: r.isTaken, Log: slog.New(slog.DiscardHandler),
	}
	return r
}

func (r *rig) isTaken(netip.Prefix) error {
	if whose := r.taken.Load(); whose != nil {
		return errors.New(*whose)
	}
	return nil
}

func (r *rig) write(text string) {
	r.Helper()
	if err := os.WriteFile(r.options.File, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

// wants checks what is in force, and what is wrong with the file.
func (r *rig) wants(when string, s *Source, domains int, problem string) {
	r.Helper()
	if got := s.Problem(); len(s.Domains()) != domains || (got == "") != (problem == "") || !strings.Contains(got, problem) {
		r.Errorf("%s: %d domains, problem %q; want %d, %q", when, len(s.Domains()), got, domains, problem)
	}
}

// A file that is wrong, gone or half written changes nothing; a restart goes by what was kept.
// A start that never read a good one fails, and says why.
func TestTheLastGoodListStaysInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if _, err := Open(r.options); err == nil || !strings.Contains(err.Error(), "none was read before") || !strings.Contains(err.Error(), r.options.File) {
			t.Errorf("a start without a file: %v", err)
		}
		r.write(good)
		s, err := Open(r.options)
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		go s.Run(t.Context(), func() { told++ })
		look := func() { pass(lookEvery) }
		look()
		r.wants("at the start", s, 2, "")
		r.write("[")
		look()
		r.wants("a file that is wrong", s, 2, "not a list")
		os.Remove(r.options.File)
		look()
		r.wants("a file that is gone", s, 2, "no such file")
		again, err := Open(r.options)
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		go again.Run(ctx, func() { t.Error("a restart changed something") })
		synctest.Wait()
		r.wants("a restart while the file is gone", again, 2, "no such file")
		end()
		r.write(good)
		look()
		r.wants("the same file again", s, 2, "")
		if told != 0 {
			t.Errorf("told %d times though nothing changed", told)
		}
		r.write("[]\n")
		look()
		r.wants("no domains any more", s, 0, "")
		if told != 1 {
			t.Errorf("told %d times of one change", told)
		}
		ours := "overlaps 172.20.0.0/24, which is of this mesh"
		r.taken.Store(&ours)
		r.write(good)
		look()
		r.wants("addresses of this mesh", s, 0, "[0].cidrs[0]: 172.20.0.0/16 of other.example: overlaps 172.20.0.0/24")
		r.taken.Store(nil)
		look()
		r.wants("they are free", s, 2, "")
		r.taken.Store(&ours)
		look()
		r.wants("addresses that this mesh got later", s, 2, "overlaps")
	})
}

// Before this mesh is known nobody can say whether the addresses of a file are free: a start
// goes by what was kept, and a file that is not free then takes neither its place nor that of
// what is kept.
func TestAStartTakesNoNewFileBeforeThisMeshIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		known := make(chan struct{})
		r.options.Known = func(ctx context.Context) error {
			select {
			case <-known:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		r.write(good)
		first := r.open()
		ctx, end := context.WithCancel(t.Context())
		go first.Run(ctx, func() { t.Error("the same file is told as a change") })
		pass(lookEvery)
		r.wants("a first start goes by the file", first, 2, "")
		r.wantsKept("before this mesh is known", "")
		close(known)
		synctest.Wait()
		r.wantsKept("this mesh is known", good)
		end()

		known = make(chan struct{})
		r.write("[]")
		s := r.open()
		go s.Run(t.Context(), func() {})
		pass(2 * lookEvery)
		r.wants("a restart, before this mesh is known", s, 2, "")
		ours := "is of this mesh"
		r.taken.Store(&ours)
		r.write("- {trustDomain: third.example, cidrs: [10.244.0.0/16]}")
		close(known)
		pass(lookEvery)
		r.wants("a file with addresses of this mesh", s, 2, "10.244.0.0/16 of third.example: is of this mesh")
		r.wantsKept("a file with addresses of this mesh", good)
		r.taken.Store(nil)
		pass(lookEvery)
		r.wants("they are free", s, 1, "")
	})
}

// What was kept is asked whose its addresses are, too; and a first start keeps nothing whose
// addresses turn out to be of this mesh.
func TestAListWhoseAddressesAreNotFreeIsNotKeptNorTakenFromWhatWasKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.write(good)
		s := r.open()
		ours := "is never steered"
		r.taken.Store(&ours)
		go s.Run(t.Context(), func() {})
		pass(lookEvery)
		r.wants("they are not free", s, 2, "is never steered")
		r.wantsKept("they are not free", "")
		r.taken.Store(nil)
		pass(lookEvery)
		r.wantsKept("they are free", good)
		r.taken.Store(&ours)
		os.Remove(r.options.File)
		if _, err := Open(r.options); err == nil || !strings.Contains(err.Error(), "172.20.0.0/16 of other.example: is never steered") {
			t.Errorf("a start by what was kept: %v", err)
		}
		r.write("[]")
		r.wants("a file without them", r.open(), 0, "")
	})
}

func (r *rig) open() *Source {
	r.Helper()
	s, err := Open(r.options)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// wantsKept checks what the next start finds; empty: nothing.
func (r *rig) wantsKept(when, want string) {
	r.Helper()
	if text, _ := os.ReadFile(r.options.Kept); string(text) != want {
		r.Errorf("%s: kept is %q", when, text)
	}
}

// pass lets bubble time go by, and all that is due happen.
func pass(d time.Duration) {
	time.Sleep(d) // bubble time
	synctest.Wait()
}
