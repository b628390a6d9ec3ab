// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"crypto/tls"
	"encoding/binary"
)

// TLS is what a connection's bytes say about it as TLS.
type TLS struct {
	Version uint16        // what the server selected, tls.VersionTLS13; 0: no ServerHello
	Group   tls.CurveID   // of the key exchange, that the server selected; 0: none
	Offered []tls.CurveID // groups for which the client sent a share, in its order
	Only    bool          // every byte of both ways is in a TLS record
	Records map[byte]int
}

// Content types of TLS records, RFC 8446 §5.1.
const (
	ChangeCipherSpec = 20
	Alert            = 21
	Handshake        = 22
	ApplicationData  = 23
)

const (
	typeClientHello      = 1
	typeServerHello      = 2
	extSupportedVersions = 43
	extKeyShare          = 51
)

// TLS reads the flow as TLS. Of a flow that is cut off, the record at the end
// of a way may be incomplete.
func (f Flow) TLS() TLS {
	t := TLS{Records: make(map[byte]int)}
	up := eachRecord(f.Up, func(kind byte, body []byte) {
		t.Records[kind]++
		if t.Offered == nil && kind == Handshake {
			t.Offered = offered(body)
		}
	})
	down := eachRecord(f.Down, func(kind byte, body []byte) {
		t.Records[kind]++
		if t.Version == 0 && kind == Handshake {
			t.Version, t.Group = selected(body)
		}
	})
	t.Only = up && down && len(f.Up) > 0 && len(f.Down) > 0
	return t
}

// eachRecord reports whether stream is nothing but TLS records.
func eachRecord(stream []byte, record func(kind byte, body []byte)) bool {
	for len(stream) >= 5 {
		kind, major, size := stream[0], stream[1], int(binary.BigEndian.Uint16(stream[3:]))
		if kind < ChangeCipherSpec || kind > ApplicationData || major != 3 || size > 16384+256 {
			return false
		}
		body := stream[5:]
		if size > len(body) {
			record(kind, body)
			return true
		}
		record(kind, body[:size])
		stream = body[size:]
	}
	return true
}

// selected is the version in a ServerHello, and the group of its key share, RFC 8446
// §4.1.3, §4.2.1 and §4.2.8.
func selected(hello []byte) (version uint16, group tls.CurveID) {
	r := reader{hello}
	if r.uint8() != typeServerHello {
		return 0, 0
	}
	r.take(3) // length
	version = min(r.uint16(), tls.VersionTLS12)
	r.take(32) // random
	r.take(int(r.uint8()))
	r.take(3) // cipher suite, compression
	r.eachExtension(func(kind uint16, body reader) {
		switch kind {
		case extSupportedVersions:
			version = body.uint16()
		case extKeyShare:
			group = tls.CurveID(body.uint16())
		}
	})
	return version, group
}

// offered are the groups of a ClientHello's key shares, RFC 8446 §4.1.2 and §4.2.8.
func offered(hello []byte) (groups []tls.CurveID) {
	r := reader{hello}
	if r.uint8() != typeClientHello {
		return nil
	}
	r.take(3 + 2 + 32) // length, version, random
	r.take(int(r.uint8()))
	r.take(int(r.uint16())) // cipher suites
	r.take(int(r.uint8()))  // compression methods
	r.eachExtension(func(kind uint16, body reader) {
		if kind != extKeyShare {
			return
		}
		for shares := (reader{body.take(int(body.uint16()))}); len(shares.data) >= 4; {
			groups = append(groups, tls.CurveID(shares.uint16()))
			shares.take(int(shares.uint16()))
		}
	})
	return groups
}

// eachExtension reads the extensions of a hello, which are its end.
func (r *reader) eachExtension(extension func(kind uint16, body reader)) {
	for all := (reader{r.take(int(r.uint16()))}); len(all.data) >= 4; {
		kind := all.uint16()
		extension(kind, reader{all.take(int(all.uint16()))})
	}
}

// reader takes from the front; what is missing reads as zero.
type reader struct{ data []byte }

func (r *reader) take(n int) []byte {
	n = min(n, len(r.data))
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) uint8() uint8 {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); len(b) == 2 {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}
