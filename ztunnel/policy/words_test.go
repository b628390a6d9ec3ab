// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestWordsAgreeWithTheirPatterns(t *testing.T) {
	patterns := []Pattern{"*", "a*", "*a", "abc", "**", "*a*", "a*c", ""}
	for i := range 1 << len(patterns) {
		var some []Pattern
		for j, p := range patterns {
			if i>>j&1 == 1 {
				some = append(some, p)
			}
		}
		w := newWords(some)
		for _, s := range []string{"", "a", "abc", "ba", "*", "a*c", "b"} {
			want := false
			for _, p := range some {
				want = want || p.Matches(s)
			}
			if w.has(s) != want {
				t.Errorf("%q of %q: %v", s, some, !want)
			}
		}
	}
}

func TestRangesAgreeWithTheirPrefixes(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	addr := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(256))})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(r.IntN(2)), 14: byte(r.IntN(2)), 15: byte(r.IntN(256))})
	}
	for range 2000 {
		var prefixes []netip.Prefix
		for range r.IntN(6) {
			a := addr()
			prefixes = append(prefixes, netip.PrefixFrom(a, r.IntN(a.BitLen()+1)))
		}
		all := newRanges(prefixes)
		for range 20 {
			a, want := addr(), false
			for _, p := range prefixes {
				want = want || p.Contains(a)
			}
			if all.has(a) != want {
				t.Fatalf("%v in %v: %v", a, prefixes, !want)
			}
		}
		if all.has(netip.Addr{}) {
			t.Fatal("no address is in a range")
		}
	}
}
