// SPDX-License-Identifier: Apache-2.0

package foreign

import (
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
		{"- {trustDomain: other.example, cidr: [172.20.0.0/16]}", `unknown field "cidr"`},
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
		r.wants("a restart while the file is gone", again, 2, "no such file")
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

// pass lets bubble time go by, and all that is due happen.
func pass(d time.Duration) {
	time.Sleep(d) // bubble time
	synctest.Wait()
}
