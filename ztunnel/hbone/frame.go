// SPDX-License-Identifier: Apache-2.0

package hbone

import "encoding/binary"

// preface is what a client sends before its first frame, RFC 9113 §3.4.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// kind is a frame type, RFC 9113 §6.
type kind uint8

const (
	kindData kind = iota
	kindHeaders
	kindPriority
	kindReset
	kindSettings
	kindPushPromise
	kindPing
	kindGoAway
	kindWindowUpdate
	kindContinuation
)

const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

const (
	settingHeaderTableSize uint16 = iota + 1
	settingEnablePush
	settingMaxStreams
	settingWindow
	settingFrameSize
	settingHeaderList
)

const frameHeaderSize = 9

// frame is a frame's header.
type frame struct {
	length int
	kind   kind
	flags  uint8
	stream uint32
}

func (f frame) has(flag uint8) bool { return f.flags&flag != 0 }

func decodeFrame(b *[frameHeaderSize]byte) frame {
	return frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   kind(b[3]),
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31), // the reserved bit is ignored
	}
}

func appendFrame(b []byte, length int, k kind, flags uint8, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(k), flags)
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendUint32Frame(b []byte, k kind, stream, value uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, k, 0, stream), value)
}

func appendWindowUpdate(b []byte, stream uint32, n int) []byte {
	return appendUint32Frame(b, kindWindowUpdate, stream, uint32(n))
}

func appendReset(b []byte, stream uint32, c code) []byte {
	return appendUint32Frame(b, kindReset, stream, uint32(c))
}

func appendPing(b []byte, flags uint8, data [8]byte) []byte {
	return append(appendFrame(b, 8, kindPing, flags, 0), data[:]...)
}

func appendGoAway(b []byte, last uint32, c code, reason string) []byte {
	b = appendFrame(b, 8+len(reason), kindGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(c))
	return append(b, reason...)
}

type setting struct {
	id    uint16
	value uint32
}

func appendSettings(b []byte, settings ...setting) []byte {
	b = appendFrame(b, 6*len(settings), kindSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, s.id)
		b = binary.BigEndian.AppendUint32(b, s.value)
	}
	return b
}
