// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Header is what a CONNECT or its answer says beside where to. It describes
// the peer for logs and metrics and decides nothing.
type Header struct {
	Baggage     string
	Forwarded   string
	Traceparent string
}

// Target is where a stream is to end.
type Target struct {
	Authority netip.AddrPort // required
	Header    Header
}

// Static table indices, RFC 7541 Appendix A.
const (
	indexAuthority = 1
	indexMethod    = 2
	indexStatus    = 8
	statusOK       = 0x80 | indexStatus // :status 200, whole
)

// AppendConnect encodes a request. Like everything we send it refers to no
// dynamic table, so that the bytes do not depend on what went before.
func AppendConnect(b []byte, t Target) []byte {
	b = appendField(b, indexMethod, "", "CONNECT")
	var authority [64]byte
	b = appendField(b, indexAuthority, "", t.Authority.AppendTo(authority[:0]))
	for _, f := range [...]struct{ name, value string }{
		{"baggage", t.Header.Baggage}, {"forwarded", t.Header.Forwarded}, {"traceparent", t.Header.Traceparent},
	} {
		if f.value != "" {
			b = appendField(b, 0, f.name, f.value)
		}
	}
	return b
}

// AppendStatus encodes an answer.
func AppendStatus(b []byte, code int) []byte {
	if code == 200 {
		return append(b, statusOK)
	}
	return appendField(b, indexStatus, "", strconv.Itoa(code))
}

// appendField is a literal without indexing, RFC 7541 §6.2.2.
func appendField[T string | []byte](b []byte, index byte, name string, value T) []byte {
	b = append(b, index) // all of our indices fit the four bits
	if index == 0 {
		b = appendString(b, name)
	}
	return appendString(b, value)
}

func appendString[T string | []byte](b []byte, s T) []byte {
	n := len(s)
	if n < 127 {
		b = append(b, byte(n))
	} else {
		b = append(b, 127)
		for n -= 127; n >= 128; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		b = append(b, byte(n))
	}
	return append(b, s...)
}

// Fields is a decoded header list.
type Fields struct {
	method, authority, status string
	host, length              string // content-length
	Header                    Header
	pseudo                    pseudo // those that were there
	problem                   string // of a field; "" if each is well-formed
}

// Decoder turns header blocks into fields. One block uses the state that the
// blocks before it left, so each must be decoded, whatever becomes of its stream.
type Decoder struct {
	hpack *hpack.Decoder
	limit int // bytes of a decoded list

	out        Fields
	size, n    int
	anyRegular bool
	kept       [len(keptNames)]string // the last value of each
}

var errHeaderBomb = errors.New("header list over the limit")

// NewDecoder returns a Decoder of header lists of at most limit bytes.
func NewDecoder(limit int) *Decoder {
	d := &Decoder{limit: limit}
	d.hpack = hpack.NewDecoder(headerTableSize, d.field)
	d.hpack.SetMaxStringLength(HeaderStringLimit)
	return d
}

// Decode decodes one block. An error leaves the state useless: the tunnel must end.
func (d *Decoder) Decode(block []byte) (Fields, error) {
	if d.begin(); d.plain(block) {
		return d.out, nil
	}
	return d.unfold(block)
}

// unfold is decode for all that HPACK can do.
func (d *Decoder) unfold(block []byte) (Fields, error) {
	d.begin()
	// A block is decoded field by field so that a small one that unfolds
	// into a large list is stopped on the way.
	d.hpack.SetEmitEnabled(true)
	for len(block) > 0 {
		n := min(len(block), 256)
		if _, err := d.hpack.Write(block[:n]); err != nil {
			if errors.Is(err, hpack.ErrStringLength) {
				return Fields{}, violated(CodeCalm, "header string of more than %d bytes", HeaderStringLimit)
			}
			return Fields{}, violated(CodeCompression, "%v", err)
		}
		if d.size > d.limit || d.n > HeaderFieldLimit {
			return Fields{}, violated(CodeCalm, "%v", errHeaderBomb)
		}
		block = block[n:]
	}
	if err := d.hpack.Close(); err != nil {
		return Fields{}, violated(CodeCompression, "%v", err)
	}
	return d.out, nil
}

func (d *Decoder) begin() {
	d.out, d.size, d.n, d.anyRegular = Fields{}, 0, 0, false
}

func (d *Decoder) field(f hpack.HeaderField) {
	d.n++
	d.size += int(f.Size())
	if d.size > d.limit || d.n > HeaderFieldLimit {
		d.hpack.SetEmitEnabled(false)
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		d.pseudo(f)
		return
	}
	d.anyRegular = true
	d.wrong(wrongField(f.Name, f.Value))
	switch f.Name {
	case "baggage":
		d.out.Header.Baggage = f.Value
	case "forwarded":
		d.out.Header.Forwarded = f.Value
	case "traceparent":
		d.out.Header.Traceparent = f.Value
	case "host":
		d.once(&d.out.host, f)
	case "content-length":
		d.once(&d.out.length, f)
	}
}

// once keeps the value of a field that a list has once, if at all.
func (d *Decoder) once(kept *string, f hpack.HeaderField) {
	switch {
	case f.Value == "":
		d.wrong("empty " + f.Name)
	case *kept != "":
		d.wrong("field " + f.Name + " twice")
	}
	*kept = f.Value
}

func (d *Decoder) pseudo(f hpack.HeaderField) {
	if d.anyRegular {
		d.wrong("pseudo-header field after a regular one")
	}
	d.wrong(wrongValue(f.Value))
	p := pseudoOf(f.Name)
	switch {
	case p == 0:
		d.wrong("unknown pseudo-header field")
	case d.out.pseudo&p != 0:
		d.wrong("pseudo-header field twice")
	}
	d.out.pseudo |= p
	switch p {
	case pseudoMethod:
		d.out.method = f.Value
	case pseudoAuthority:
		d.out.authority = f.Value
	case pseudoStatus:
		d.out.status = f.Value
	}
}

// wrong keeps the first problem of a list.
func (d *Decoder) wrong(problem string) {
	if d.out.problem == "" {
		d.out.problem = problem
	}
}

// Request is the target of a well-formed request, or the status to answer if it
// has none that is ours.
func (f *Fields) Request(local netip.Addr) (t Target, status int) {
	if f.method != "CONNECT" {
		return Target{}, 400
	}
	authority, err := parseAuthority(f.authority)
	if err != nil || authority.Addr() != local {
		return Target{}, 400
	}
	return Target{Authority: authority, Header: f.Header}, 0
}

// parseAuthority reads ip:port, IPv6 in brackets. Names are of waypoints and
// gateways, which we are not.
func parseAuthority(s string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("authority %q: not an address and port", s)
	case addr.Addr().Zone() != "":
		return netip.AddrPort{}, fmt.Errorf("authority %q: zone", s)
	case addr.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("authority %q: port 0", s)
	}
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), nil
}

// Answer is the status code of a response to CONNECT, or what is malformed in it.
func (f *Fields) Answer() (status int, problem string) {
	if problem := f.malformedAnswer(); problem != "" {
		return 0, problem
	}
	status, err := strconv.Atoi(f.status)
	if err != nil || len(f.status) != 3 || status < 100 {
		return 0, fmt.Sprintf("status %q", f.status)
	}
	return status, ""
}
