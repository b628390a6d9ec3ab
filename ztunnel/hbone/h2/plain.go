// SPDX-License-Identifier: Apache-2.0

package h2

import "golang.org/x/net/http2/hpack"

// keptNames are the fields whose value is mostly that of the stream before, or
// at least of a known name.
var keptNames = [...]string{":authority", ":method", "baggage", "forwarded", "traceparent"}

const keptLimit = 256 // bytes of one

// plain decodes a block like those that we send: literals that are not indexed,
// by a static name or in full, without Huffman, and ":status: 200". Such a block
// neither uses nor changes the state of HPACK. All others, and any that is
// wrong, it leaves to package hpack.
func (d *Decoder) plain(b []byte) bool {
	for len(b) > 0 {
		if d.size > d.limit || d.n > HeaderFieldLimit {
			return false
		}
		first := b[0]
		b = b[1:]
		name := ""
		switch {
		case first == statusOK:
			d.field(hpack.HeaderField{Name: ":status", Value: "200"})
			continue
		case first == 0 || first == 0x10: // the name follows
			raw, rest, ok := plainString(b)
			if !ok {
				return false
			}
			b, name = rest, nameOf(raw)
		case first&^0x10 == indexAuthority:
			name = ":authority"
		case first&^0x10 == indexMethod:
			name = ":method"
		case first&^0x10 == indexStatus:
			name = ":status"
		default:
			return false
		}
		raw, rest, ok := plainString(b)
		if !ok {
			return false
		}
		b = rest
		d.field(hpack.HeaderField{Name: name, Value: d.valueOf(name, raw)})
	}
	return d.size <= d.limit && d.n <= HeaderFieldLimit
}

// plainString reads a string literal, RFC 7541 §5.2.
func plainString(b []byte) (s, rest []byte, ok bool) {
	if len(b) == 0 || b[0]&0x80 != 0 {
		return nil, nil, false
	}
	n := int(b[0])
	b = b[1:]
	if n == 127 {
		for shift := 0; ; shift += 7 {
			if len(b) == 0 || shift > 14 {
				return nil, nil, false
			}
			n += int(b[0]&0x7f) << shift
			more := b[0]&0x80 != 0
			if b = b[1:]; !more {
				break
			}
		}
	}
	if n > len(b) || n > HeaderStringLimit {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

func nameOf(raw []byte) string {
	for _, name := range keptNames {
		if name == string(raw) {
			return name
		}
	}
	return string(raw)
}

// valueOf is raw, in the memory of the value before if they are equal.
func (d *Decoder) valueOf(name string, raw []byte) string {
	for i := range keptNames {
		if keptNames[i] == name {
			if d.kept[i] != string(raw) {
				if len(raw) > keptLimit {
					break
				}
				d.kept[i] = string(raw)
			}
			return d.kept[i]
		}
	}
	return string(raw)
}
