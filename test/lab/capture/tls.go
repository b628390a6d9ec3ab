// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"crypto/tls"
	"encoding/binary"
)

// TLS is what a connection's bytes say about it as TLS.
type TLS struct {
	Version uint16 // what the server selected, tls.VersionTLS13; 0: no ServerHello
	Only    bool   // every byte of both ways is in a TLS record
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
	typeServerHello      = 2
	extSupportedVersions = 43
)

// TLS reads the flow as TLS. Of a flow that is cut off, the record at the end
// of a way may be incomplete.
func (f Flow) TLS() TLS {
	t := TLS{Records: make(map[byte]int)}
	up := eachRecord(f.Up, func(kind byte, _ []byte) { t.Records[kind]++ })
	down := eachRecord(f.Down, func(kind byte, body []byte) {
		t.Records[kind]++
		if t.Version == 0 && kind == Handshake {
			t.Version = selected(body)
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

// selected is the version in a ServerHello, RFC 8446 §4.1.3 and §4.2.1.
func selected(hello []byte) uint16 {
	r := reader{hello}
	if kind := r.take(1); len(kind) == 0 || kind[0] != typeServerHello {
		return 0
	}
	r.take(3) // length
	legacy := r.uint16()
	r.take(32) // random
	r.take(int(r.uint8()))
	r.take(3) // cipher suite, compression
	extensions := reader{r.take(int(r.uint16()))}
	for len(extensions.data) >= 4 {
		kind := extensions.uint16()
		body := reader{extensions.take(int(extensions.uint16()))}
		if kind == extSupportedVersions {
			return body.uint16()
		}
	}
	return min(legacy, tls.VersionTLS12)
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
