// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// A frame, a record and what a reader takes at first have sizes that may
// coincide; whoever then waits for more keeps an app waiting.
func TestAMessageOfAnyLengthArrivesWithoutTheNext(t *testing.T) {
	for name, records := range map[string]Records{"own": OwnRecords, "std": StdRecords} {
		t.Run(name, func(t *testing.T) {
			l := newLinkOf(t, records, nil)
			app := l.open()
			app.SetDeadline(time.Now().Add(patience))
			for n := 1; n <= 300; n++ {
				sent := bytes.Repeat([]byte{byte(n)}, n)
				if _, err := app.Write(sent); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, n)
				if _, err := io.ReadFull(app, got); err != nil || !bytes.Equal(got, sent) {
					t.Fatalf("of %d bytes: %v", n, err)
				}
			}
			app.Close()
		})
	}
}

func TestBothEndsKnowTheSocketBelowTheirTunnel(t *testing.T) {
	l := newLink(t, nil)
	l.open()
	for _, c := range append(l.pool.all(), l.ln.all()...) {
		if c.rtt.socket == nil {
			t.Errorf("client %v does not", c.client)
		}
	}
}
