// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"iter"
	"math/rand/v2"
)

// A leg to the app has the client's address and a port that the client may want
// to use itself later. Then the client's SYN meets the leg's socket, before
// sk_lookup is asked, and is not answered until the leg ends. So legs have ports
// that clients are not given: Linux gives connect() those of the parity of the
// first port of its range, and others only when these run out.
var (
	lowPorts   = ports{1024, 32767} // below the default range
	highPorts  = ports{32768, 65535}
	reserved   = ports{512, 1023} // as rsh and NFS ask of a client
	portsTried = 50               // in each range
)

// innerPorts are the ports to try for a leg on behalf of a client's connection
// from this port, the best first: those of the other parity, low before high, and
// then those of its own. A client below 1024, whom the app may trust for that,
// gets another port there if one is free.
func innerPorts(client uint16) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		if client != 0 && client < 1024 && !eachReserved(client, yield) {
			return
		}
		other := otherParity(client)
		for _, from := range []struct {
			ports
			parity uint16
		}{{lowPorts, other}, {highPorts, other}, {lowPorts, other ^ 1}} {
			for range portsTried {
				if !yield(from.pick()&^1 | from.parity) {
					return
				}
			}
		}
	}
}

// otherParity is that of the ports which are tried first.
func otherParity(client uint16) uint16 {
	if client == 0 {
		return uint16(rand.UintN(2))
	}
	return client&1 ^ 1
}

// firstInnerPort is the first of innerPorts for a client at or above 1024, or one that is
// not known.
func firstInnerPort(client uint16) uint16 { return lowPorts.pick()&^1 | otherParity(client) }

// eachReserved yields all ports below 1024 but the client's own, those above 511
// first. It returns false when it shall stop.
func eachReserved(client uint16, yield func(uint16) bool) bool {
	for _, p := range []ports{reserved, {1, reserved.low - 1}} {
		start, n := p.pick(), p.high-p.low+1
		for i := range n {
			port := p.low + (start-p.low+i)%n
			if port != client && !yield(port) {
				return false
			}
		}
	}
	return true
}
