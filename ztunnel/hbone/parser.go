// SPDX-License-Identifier: Apache-2.0

package hbone

// parser cuts the bytes of a tunnel into frames, however they are split. DATA
// passes through it in pieces without being copied; of other frames it holds
// one at a time. It checks all that one frame alone, or a header block, shows.
type parser struct {
	headerLimit int // bytes of one header block

	head    [frameHeaderSize]byte
	have    int // of head
	f       frame
	left    int // payload to come
	padding int // the part of it that is padding; -1: its length is to come
	begun   bool
	held    []byte // payload of a frame that is not DATA, so far

	block         uint32 // stream whose header block is not finished, or 0
	blockSize     int
	continuations int
}

// piece is a frame, or for DATA the next part of one.
type piece struct {
	frame
	payload []byte // without padding and priority; valid until the next bytes are parsed
	first   bool   // of the frame
	last    bool   // of the frame
}

// next takes n bytes from b. ok tells whether they complete a piece.
func (p *parser) next(b []byte) (pc piece, n int, ok bool, err error) {
	if p.have < frameHeaderSize {
		n = copy(p.head[p.have:], b)
		p.have += n
		if p.have < frameHeaderSize {
			return piece{}, n, false, nil
		}
		p.f = decodeFrame(&p.head)
		p.left, p.padding, p.begun = p.f.length, 0, false
		if err := p.check(); err != nil {
			return piece{}, n, false, err
		}
		if p.f.has(flagPadded) && (p.f.kind == kindData || p.f.kind == kindHeaders) {
			p.padding = -1
		}
		if p.left > 0 {
			return piece{}, n, false, nil
		}
		return p.finish(nil), n, true, nil
	}
	switch {
	case p.f.kind == kindData:
		return p.data(b)
	case p.f.kind > kindContinuation || p.f.kind == kindPriority:
		n = min(len(b), p.left)
		if p.left -= n; p.left > 0 {
			return piece{}, n, false, nil
		}
		return p.finish(nil), n, true, nil
	}
	return p.whole(b)
}

// data passes on what there is of a DATA frame's payload.
func (p *parser) data(b []byte) (pc piece, n int, ok bool, err error) {
	if p.padding < 0 {
		p.padding = int(b[0])
		p.left--
		if p.padding > p.left {
			return piece{}, 1, false, violation(codeProtocol, "DATA frame with more padding than payload")
		}
		if p.left == 0 {
			return p.finish(nil), 1, true, nil
		}
		return piece{}, 1, false, nil
	}
	n = min(len(b), p.left)
	payload := b[:min(n, p.left-p.padding)]
	if p.left -= n; p.left == 0 {
		return p.finish(payload), n, true, nil
	}
	p.padding = min(p.padding, p.left)
	pc = piece{frame: p.f, payload: payload, first: !p.begun}
	p.begun = true
	return pc, n, true, nil
}

// whole collects the payload of any other frame, unless it is all there.
func (p *parser) whole(b []byte) (pc piece, n int, ok bool, err error) {
	n = min(len(b), p.left)
	p.left -= n
	payload := b[:n]
	if p.left > 0 || len(p.held) > 0 {
		p.held = append(p.held, payload...)
		payload = p.held
	}
	if p.left > 0 {
		return piece{}, n, false, nil
	}
	if p.f.kind == kindHeaders {
		if payload, err = p.strip(payload); err != nil {
			return piece{}, n, false, err
		}
	}
	return p.finish(payload), n, true, nil
}

// strip takes padding and priority off a HEADERS frame, which checkLength found
// long enough for both.
func (p *parser) strip(b []byte) ([]byte, error) {
	padding := 0
	if p.f.has(flagPadded) {
		padding, b = int(b[0]), b[1:]
	}
	if p.f.has(flagPriority) {
		b = b[5:]
	}
	if padding > len(b) {
		return nil, violation(codeProtocol, "HEADERS frame with more padding than payload")
	}
	return b[:len(b)-padding], nil
}

func (p *parser) finish(payload []byte) piece {
	pc := piece{frame: p.f, payload: payload, first: !p.begun, last: true}
	p.have = 0
	p.held = p.held[:0]
	if cap(p.held) > defaultFrameLimit {
		p.held = nil
	}
	return pc
}

// check refuses a frame by its header.
func (p *parser) check() error {
	f := p.f
	if f.length > frameLimit {
		return violation(codeFrameSize, "frame of %d bytes", f.length)
	}
	if p.block != 0 && (f.kind != kindContinuation || f.stream != p.block) {
		return violation(codeProtocol, "frame of type %d inside the header block of stream %d", f.kind, p.block)
	}
	if err := checkStream(f); err != nil {
		return err
	}
	if err := checkLength(f); err != nil {
		return err
	}
	if f.kind == kindHeaders || f.kind == kindContinuation {
		return p.checkBlock()
	}
	return nil
}

func checkStream(f frame) error {
	switch f.kind {
	case kindData, kindHeaders, kindPriority, kindReset, kindContinuation:
		if f.stream == 0 {
			return violation(codeProtocol, "frame of type %d without a stream", f.kind)
		}
	case kindSettings, kindPing, kindGoAway:
		if f.stream != 0 {
			return violation(codeProtocol, "frame of type %d on stream %d", f.kind, f.stream)
		}
	case kindPushPromise: // ENABLE_PUSH is 0 on our side, and clients cannot push
		return violation(codeProtocol, "PUSH_PROMISE")
	}
	return nil
}

func checkLength(f frame) error {
	ok := true
	switch f.kind {
	case kindData:
		ok = !f.has(flagPadded) || f.length > 0
	case kindHeaders:
		need := 0
		if f.has(flagPadded) {
			need++
		}
		if f.has(flagPriority) {
			need += 5
		}
		ok = f.length >= need
	case kindPriority:
		ok = f.length == 5
	case kindReset, kindWindowUpdate:
		ok = f.length == 4
	case kindPing:
		ok = f.length == 8
	case kindSettings:
		if f.length > 6*settingsLimit {
			return violation(codeCalm, "SETTINGS frame of %d bytes", f.length)
		}
		ok = f.length%6 == 0 && (!f.has(flagAck) || f.length == 0)
	case kindGoAway:
		ok = f.length >= 8 && f.length <= goAwayLimit
	}
	if !ok {
		return violation(codeFrameSize, "frame of type %d with %d bytes", f.kind, f.length)
	}
	return nil
}

// checkBlock bounds a header block before a byte of it is kept (CVE-2024-27316).
func (p *parser) checkBlock() error {
	f := p.f
	if f.kind == kindHeaders {
		p.blockSize, p.continuations = 0, 0
	} else {
		if p.block == 0 {
			return violation(codeProtocol, "CONTINUATION outside a header block")
		}
		if p.continuations++; p.continuations > continuationLimit {
			return violation(codeCalm, "more than %d CONTINUATION frames", continuationLimit)
		}
	}
	if p.blockSize += f.length; p.blockSize > p.headerLimit {
		return violation(codeCalm, "header block of more than %d bytes", p.headerLimit)
	}
	p.block = f.stream
	if f.has(flagEndHeaders) {
		p.block = 0
	}
	return nil
}
