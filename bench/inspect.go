// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// inspect proves a column and reads on the wire meanwhile whether it encrypts.
// The cipher is in the packets of the first connection: this is the first.
func (w *world) inspect(ctx context.Context, p *peer) (err error) {
	c, err := w.lab.Wire.Capture(ctx)
	if err != nil {
		return err
	}
	proved := p.prove(ctx)
	// Not all of it need fit: what was kept tells enough.
	seen, missing := c.Contains(load.Telltale())
	flows, _ := c.Flows(nil)
	if err := errors.Join(proved, c.Stop()); proved != nil {
		return err
	}
	switch {
	case p.crypto && seen:
		return errors.New("its bytes are readable on the wire")
	case p.crypto && missing != nil:
		return fmt.Errorf("whether it encrypts is not known: %w", missing)
	}
	if suites := ciphers(flows); len(suites) > 0 && p.crypto {
		p.about = append(p.about, suites...)
	}
	return nil
}

// ciphers names what servers chose.
func ciphers(flows []capture.Flow) (names []string) {
	for _, f := range flows {
		if suite, ok := suite(f.Down); ok {
			names = append(names, tls.CipherSuiteName(suite))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// suite reads a ServerHello at the begin of what a server sent: RFC 8446
// §4.1.3, behind the headers of record and handshake message.
func suite(down []byte) (uint16, bool) {
	const (
		hello   = 5      // type 2
		session = 9 + 34 // a length, behind version and random
	)
	if len(down) <= session || down[0] != capture.Handshake || down[hello] != 2 {
		return 0, false
	}
	at := session + 1 + int(down[session])
	if len(down) < at+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(down[at:]), true
}
