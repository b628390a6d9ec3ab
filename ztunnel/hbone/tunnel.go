// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"crypto/tls"
	"net/netip"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
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
	// PeerSerial is of the certificate by which the peer proved itself, in hexadecimal.
	PeerSerial string     `json:"peerSerial"`
	Until      time.Time  `json:"until,omitzero"` // when the first certificate of both sides ends
	TCP        socket.TCP `json:"tcp,omitzero"`   // of its socket
}

// Tunnels are those of the Pool now.
func (p *Pool) Tunnels() []Tunnel { return tunnelsOf(p.all()) }

// Tunnels are those of the Listener now.
func (l *Listener) Tunnels() []Tunnel { return tunnelsOf(l.all()) }

func tunnelsOf(list []*conn) []Tunnel {
	told := make([]Tunnel, 0, len(list))
	for _, c := range list {
		told = append(told, c.told())
	}
	return told
}

// Tunnel is the one that carries the stream.
func (s *Stream) Tunnel() Tunnel { return s.c.told() }

func (c *conn) told() Tunnel {
	t := Tunnel{
		Direction: "inbound", Peer: c.peer.String(), Address: c.remote,
		Cipher: tls.CipherSuiteName(c.cipher), Group: c.group.String(), Records: "own", PeerSerial: c.serial,
	}
	if c.client {
		t.Direction = "outbound"
	}
	if _, std := c.wire.(*tlsWire); std {
		t.Records = "std"
	}
	if c.rtt.socket != nil {
		t.TCP = socket.Measure(c.rtt.socket)
	}
	c.mu.Lock()
	defer c.unlock()
	t.Streams, t.Until = len(c.streams), c.until
	return t
}
