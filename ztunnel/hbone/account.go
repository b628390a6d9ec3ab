// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"net/netip"
	"time"
)

// account is what a Gate knows of an address, of a network, or of a pod of ours. The
// Gate's lock guards it.
type account struct {
	of      netip.Prefix // address or network
	inside  int          // handshakes under way
	running int          // of them with a slot
	tunnels int          // of an address, with pods of this process
	left    time.Time    // when the last of them ended
	free    time.Time    // when it has paid what it owes
}

const (
	// debtFactor is how much longer than a handshake computes its peer owes for it.
	debtFactor = 8
	// debtLimit is the most that is remembered: whoever owes that much takes turns.
	debtLimit = 5 * time.Second
	// debtOfFavour is what a known address may owe and still come before others.
	debtOfFavour = time.Second
	// knownFor is how long an address is known after its last tunnel.
	knownFor = 10 * time.Minute
	// strangerWeight is how many handshakes of a known address are spared like one
	// of a stranger.
	strangerWeight = 64
	// accountLimit bounds the addresses and networks that are remembered.
	accountLimit = 8192
	// sweepMost is how many are looked at for one to forget that is not known.
	sweepMost = 256
)

// alone is the key of an address's account.
func alone(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// networkOf is the key of a network's account. A host may use any address of an IPv6
// subnet; of IPv4, the network is what a node usually has for its pods.
func networkOf(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr.Is4() {
		bits = 24
	}
	network, _ := addr.Prefix(bits)
	return network
}

func (a *account) charge(now time.Time, took time.Duration) {
	a.free = now.Add(min(a.debt(now)+debtFactor*took, debtLimit))
}

func (a *account) debt(now time.Time) time.Duration { return max(0, a.free.Sub(now)) }

func (a *account) known(now time.Time) bool {
	return a.tunnels > 0 || !a.left.IsZero() && now.Sub(a.left) < knownFor
}

// weight is how little an address is spared when places are few.
func (a *account) weight(now time.Time) int {
	if a.known(now) {
		return a.inside
	}
	return strangerWeight * a.inside
}

func (a *account) favoured(now time.Time) bool { return a.known(now) && a.debt(now) < debtOfFavour }

func (a *account) idle() bool { return a.inside == 0 && a.running == 0 && a.tunnels == 0 }

// settled notes that a tunnel with addr came to be.
func (d *Door) settled(addr netip.Addr) {
	d.gate.mu.Lock()
	defer d.gate.mu.Unlock()
	d.gate.accountLocked(alone(addr)).tunnels++
}

// parted notes that a tunnel that was settled ended.
func (d *Door) parted(addr netip.Addr) {
	d.gate.mu.Lock()
	defer d.gate.mu.Unlock()
	if a := d.gate.accounts[alone(addr)]; a != nil && a.tunnels > 0 {
		a.tunnels--
		a.left = time.Now()
	}
}

func (g *Gate) accountLocked(of netip.Prefix) *account {
	a := g.accounts[of]
	if a == nil {
		if len(g.accounts) >= accountLimit {
			g.sweepLocked()
		}
		a = &account{of: of}
		g.accounts[of] = a
	}
	return a
}

// tidyLocked forgets an address or a network that has no handshake and no tunnel, is no longer known,
// and owes nothing: a stranger would be treated the same.
func (g *Gate) tidyLocked(a *account) {
	if now := time.Now(); a.idle() && !a.known(now) && a.debt(now) == 0 && g.accounts[a.of] == a {
		delete(g.accounts, a.of)
	}
}

// sweepLocked makes room for one more address. At most once a second it calls tidyLocked
// for all; if that leaves too many, it forgets any address that is idle, one that is not
// known if it sees such soon.
func (g *Gate) sweepLocked() {
	now := time.Now()
	if now.Sub(g.swept) > time.Second {
		g.swept = now
		for _, a := range g.accounts {
			g.tidyLocked(a)
		}
	}
	if len(g.accounts) < accountLimit {
		return
	}
	var idle *account
	seen := 0
	for _, a := range g.accounts { // from anywhere
		if a.idle() && (idle == nil || !a.known(now)) {
			idle = a
		}
		if seen++; idle != nil && (!idle.known(now) || seen > sweepMost) {
			delete(g.accounts, idle.of)
			return
		}
	}
}
