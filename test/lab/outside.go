// SPDX-License-Identifier: Apache-2.0

package lab

import "net/netip"

// Outside is a host on the wire that the cluster does not know.
type Outside struct {
	*Place
	IP4, IP6 netip.Addr
}

func (l *Lab) addOutside() error {
	ns, err := l.newNamespace("outside")
	if err != nil {
		return err
	}
	if err := l.Wire.attach("outside", ns, outsideHost); err != nil {
		return err
	}
	place, err := l.newPlace("outside", ns, "outside")
	if err != nil {
		return err
	}
	l.Outside = &Outside{Place: place, IP4: host(wire4, outsideHost).Addr(), IP6: host(wire6, outsideHost).Addr()}
	return l.enterScript("outside", place)
}

// Addr is the host's address of a family, "tcp4" or "tcp6".
func (o *Outside) Addr(network string) netip.Addr {
	if network == "tcp6" {
		return o.IP6
	}
	return o.IP4
}
