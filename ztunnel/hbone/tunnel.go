// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"net/netip"
)

// Tunnel is what a configuration dump says of one. Cipher and Records are there
// because crypto/tls chooses the cipher: one without AES costs more. Group says whether
// what is recorded today can be read by whoever has a quantum computer later.
type Tunnel struct {
	Direction string         `json:"direction"` // outbound: the pod's Pool made it
	Peer      string         `json:"peer"`
	Address   netip.AddrPort `json:"address"` // the peer's end
	Cipher    string         `json:"cipher"`
	Group     string         `json:"group"`   // of the key exchange, as X25519MLKEM768
	Records   string         `json:"records"` // own or std, as Records
	Streams   int            `json:"streams"`
}

// Tunnels are those of the Pool now.
func (p *Pool) Tunnels() []Tunnel { return tunnelsOf(p.all()) }

// Tunnels are those of the Listener now.
func (l *Listener) Tunnels() []Tunnel { return tunnelsOf(l.all()) }

func tunnelsOf(list []*conn) []Tunnel {
	told := make([]Tunnel, 0, len(list))
	for _, c := range list {
		t := Tunnel{
			Direction: "inbound", Peer: c.peer.String(), Address: c.remote,
			Cipher: tls.CipherSuiteName(c.cipher), Group: c.group.String(), Records: "own", Streams: c.count(),
		}
		if c.client {
			t.Direction = "outbound"
		}
		if _, std := c.wire.(*tlsWire); std {
			t.Records = "std"
		}
		told = append(told, t)
	}
	return told
}
