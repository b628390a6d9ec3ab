// SPDX-License-Identifier: Apache-2.0

package h2

// Parser cuts the bytes of a tunnel into frames, however they are split. DATA
// passes through it in pieces without being copied; of other frames it holds
// one at a time. It checks all that one frame alone, or a header block, shows.
type Parser struct {
	HeaderLimit int // bytes of one header block

	head    [FrameHeaderSize]byte
	have    int // of head
	f       FrameHeader
	left    int // payload to come
	padding int // the part of it that is padding; -1: its length is to come
	begun   bool
	held    []byte // payload of a frame that is not DATA, so far

	block         uint32 // stream whose header block is not finished, or 0
	blockSize     int
	continuations int
}

// Piece is a frame, or for DATA the next part of one.
type Piece struct {
	FrameHeader
	Payload []byte // without padding and priority; valid until the next bytes are parsed
	First   bool   // of the frame
	Last    bool   // of the frame
}

// Unfinished reports whether the rest of a header block, or of a frame that is not DATA,
// is to come: then nothing else may.
func (p *Parser) Unfinished() bool {
	return p.block != 0 || p.have == FrameHeaderSize && p.f.Kind != KindData
}

// Held is how many bytes of memory the Parser holds for a frame that is not finished.
func (p *Parser) Held() int { return cap(p.held) }

// Next takes n bytes from b. ok tells whether they complete a piece.
func (p *Parser) Next(b []byte) (pc Piece, n int, ok bool, err error) {
	if p.have < FrameHeaderSize {
		n = copy(p.head[p.have:], b)
		p.have += n
		if p.have < FrameHeaderSize {
			return Piece{}, n, false, nil
		}
		p.f = decodeFrame(&p.head)
		p.left, p.padding, p.begun = p.f.Length, 0, false
		if err := p.check(); err != nil {
			return Piece{}, n, false, err
		}
		if p.f.Has(FlagPadded) && (p.f.Kind == KindData || p.f.Kind == KindHeaders) {
			p.padding = -1
		}
		if p.left > 0 {
			return Piece{}, n, false, nil
		}
		return p.finish(nil), n, true, nil
	}
	switch {
	case p.f.Kind == KindData:
		return p.data(b)
	case p.f.Kind > KindContinuation || p.f.Kind == KindPriority:
		n = min(len(b), p.left)
		if p.left -= n; p.left > 0 {
			return Piece{}, n, false, nil
		}
		return p.finish(nil), n, true, nil
	}
	return p.whole(b)
}

// data passes on what there is of a DATA frame's payload.
func (p *Parser) data(b []byte) (pc Piece, n int, ok bool, err error) {
	if p.padding < 0 {
		p.padding = int(b[0])
		p.left--
		if p.padding > p.left {
			return Piece{}, 1, false, violated(CodeProtocol, "DATA frame with more padding than payload")
		}
		if p.left == 0 {
			return p.finish(nil), 1, true, nil
		}
		return Piece{}, 1, false, nil
	}
	n = min(len(b), p.left)
	payload := b[:min(n, p.left-p.padding)]
	if p.left -= n; p.left == 0 {
		return p.finish(payload), n, true, nil
	}
	p.padding = min(p.padding, p.left)
	pc = Piece{FrameHeader: p.f, Payload: payload, First: !p.begun}
	p.begun = true
	return pc, n, true, nil
}

// whole collects the payload of any other frame, unless it is all there.
func (p *Parser) whole(b []byte) (pc Piece, n int, ok bool, err error) {
	n = min(len(b), p.left)
	p.left -= n
	payload := b[:n]
	if p.left > 0 || len(p.held) > 0 {
		p.held = append(p.held, payload...)
		payload = p.held
	}
	if p.left > 0 {
		return Piece{}, n, false, nil
	}
	if p.f.Kind == KindHeaders {
		if payload, err = p.strip(payload); err != nil {
			return Piece{}, n, false, err
		}
	}
	return p.finish(payload), n, true, nil
}

// strip takes padding and priority off a HEADERS frame, which checkLength found
// long enough for both.
func (p *Parser) strip(b []byte) ([]byte, error) {
	padding := 0
	if p.f.Has(FlagPadded) {
		padding, b = int(b[0]), b[1:]
	}
	if p.f.Has(FlagPriority) {
		b = b[5:]
	}
	if padding > len(b) {
		return nil, violated(CodeProtocol, "HEADERS frame with more padding than payload")
	}
	return b[:len(b)-padding], nil
}

func (p *Parser) finish(payload []byte) Piece {
	pc := Piece{FrameHeader: p.f, Payload: payload, First: !p.begun, Last: true}
	p.have, p.held = 0, nil
	return pc
}

// check refuses a frame by its header.
func (p *Parser) check() error {
	f := p.f
	if f.Length > FrameLimit {
		return violated(CodeFrameSize, "frame of %d bytes", f.Length)
	}
	if p.block != 0 && (f.Kind != KindContinuation || f.Stream != p.block) {
		return violated(CodeProtocol, "frame of type %d inside the header block of stream %d", f.Kind, p.block)
	}
	if err := checkStream(f); err != nil {
		return err
	}
	if err := checkLength(f); err != nil {
		return err
	}
	if f.Kind == KindHeaders || f.Kind == KindContinuation {
		return p.checkBlock()
	}
	return nil
}

func checkStream(f FrameHeader) error {
	switch f.Kind {
	case KindData, KindHeaders, KindPriority, KindReset, KindContinuation:
		if f.Stream == 0 {
			return violated(CodeProtocol, "frame of type %d without a stream", f.Kind)
		}
	case KindSettings, KindPing, KindGoAway:
		if f.Stream != 0 {
			return violated(CodeProtocol, "frame of type %d on stream %d", f.Kind, f.Stream)
		}
	case KindPushPromise: // ENABLE_PUSH is 0 on our side, and clients cannot push
		return violated(CodeProtocol, "PUSH_PROMISE")
	}
	return nil
}

func checkLength(f FrameHeader) error {
	ok := true
	switch f.Kind {
	case KindData:
		ok = !f.Has(FlagPadded) || f.Length > 0
	case KindHeaders:
		need := 0
		if f.Has(FlagPadded) {
			need++
		}
		if f.Has(FlagPriority) {
			need += 5
		}
		ok = f.Length >= need
	case KindPriority:
		ok = f.Length == 5
	case KindReset, KindWindowUpdate:
		ok = f.Length == 4
	case KindPing:
		ok = f.Length == 8
	case KindSettings:
		if f.Length > 6*SettingsLimit {
			return violated(CodeCalm, "SETTINGS frame of %d bytes", f.Length)
		}
		ok = f.Length%6 == 0 && (!f.Has(FlagAck) || f.Length == 0)
	case KindGoAway:
		ok = f.Length >= 8 && f.Length <= goAwayLimit
	}
	if !ok {
		return violated(CodeFrameSize, "frame of type %d with %d bytes", f.Kind, f.Length)
	}
	return nil
}

// checkBlock bounds a header block before a byte of it is kept (CVE-2024-27316).
func (p *Parser) checkBlock() error {
	f := p.f
	if f.Kind == KindHeaders {
		p.blockSize, p.continuations = 0, 0
	} else {
		if p.block == 0 {
			return violated(CodeProtocol, "CONTINUATION outside a header block")
		}
		if p.continuations++; p.continuations > continuationLimit {
			return violated(CodeCalm, "more than %d CONTINUATION frames", continuationLimit)
		}
	}
	if p.blockSize += f.Length; p.blockSize > p.HeaderLimit {
		return violated(CodeCalm, "header block of more than %d bytes", p.HeaderLimit)
	}
	p.block = f.Stream
	if f.Has(FlagEndHeaders) {
		p.block = 0
	}
	return nil
}
