// SPDX-License-Identifier: Apache-2.0

package h2

import "encoding/binary"

// Preface is what a client sends before its first frame, RFC 9113 §3.4.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Kind is a frame type, RFC 9113 §6.
type Kind uint8

// The types that RFC 9113 knows.
const (
	KindData Kind = iota
	KindHeaders
	KindPriority
	KindReset
	KindSettings
	KindPushPromise
	KindPing
	KindGoAway
	KindWindowUpdate
	KindContinuation
)

// Flags of a frame; what they mean depends on its Kind.
const (
	FlagEndStream  = 0x1
	FlagAck        = 0x1
	FlagEndHeaders = 0x4
	FlagPadded     = 0x8
	FlagPriority   = 0x20
)

// The settings of RFC 9113 §6.5.2.
const (
	SettingHeaderTableSize uint16 = iota + 1
	SettingEnablePush
	SettingMaxStreams
	SettingWindow
	SettingFrameSize
	SettingHeaderList
)

// FrameHeaderSize is how many bytes each frame begins with.
const FrameHeaderSize = 9

// FrameHeader is a frame's header.
type FrameHeader struct {
	Length int
	Kind   Kind
	Flags  uint8
	Stream uint32
}

// Has reports whether a flag is set.
func (f FrameHeader) Has(flag uint8) bool { return f.Flags&flag != 0 }

func decodeFrame(b *[FrameHeaderSize]byte) FrameHeader {
	return FrameHeader{
		Length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		Kind:   Kind(b[3]),
		Flags:  b[4],
		Stream: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31), // the reserved bit is ignored
	}
}

// AppendFrame appends a frame header, behind which the caller appends the payload.
func AppendFrame(b []byte, length int, k Kind, flags uint8, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(k), flags)
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendUint32Frame(b []byte, k Kind, stream, value uint32) []byte {
	return binary.BigEndian.AppendUint32(AppendFrame(b, 4, k, 0, stream), value)
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame by n bytes; of the connection if
// stream is 0.
func AppendWindowUpdate(b []byte, stream uint32, n int) []byte {
	return appendUint32Frame(b, KindWindowUpdate, stream, uint32(n))
}

// AppendReset appends an RST_STREAM frame.
func AppendReset(b []byte, stream uint32, c Code) []byte {
	return appendUint32Frame(b, KindReset, stream, uint32(c))
}

// AppendPing appends a PING frame, or with FlagAck the answer to one.
func AppendPing(b []byte, flags uint8, data [8]byte) []byte {
	return append(AppendFrame(b, 8, KindPing, flags, 0), data[:]...)
}

// AppendGoAway appends a GOAWAY frame that names the last stream that was taken.
func AppendGoAway(b []byte, last uint32, c Code, reason string) []byte {
	b = AppendFrame(b, 8+len(reason), KindGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(c))
	return append(b, reason...)
}

// Setting is one entry of a SETTINGS frame.
type Setting struct {
	ID    uint16
	Value uint32
}

// AppendSettings appends a SETTINGS frame.
func AppendSettings(b []byte, settings ...Setting) []byte {
	b = AppendFrame(b, 6*len(settings), KindSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, s.ID)
		b = binary.BigEndian.AppendUint32(b, s.Value)
	}
	return b
}

// AppendBlock appends a header block as HEADERS and, if it is longer
// than most, CONTINUATION.
func AppendBlock(b []byte, id uint32, flags uint8, block []byte, most int) []byte {
	k := KindHeaders
	for {
		n := min(len(block), most)
		if n == len(block) {
			flags |= FlagEndHeaders
		}
		b = AppendFrame(b, n, k, flags, id)
		b = append(b, block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return b
		}
		k, flags = KindContinuation, 0
	}
}
