// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// nowhere is a wire that swallows all and brings nothing.
type nowhere struct{}

func (nowhere) Receive() ([][]byte, error)        { return nil, io.EOF }
func (nowhere) WriteBatch(*record.Batch) error    { return nil }
func (nowhere) Begin(*record.Batch) (bool, error) { return true, nil }
func (nowhere) Finish() error                     { return nil }
func (nowhere) CloseWrite() error                 { return nil }
func (nowhere) Close() error                      { return nil }
func (nowhere) SetReadDeadline(time.Time) error   { return nil }
func (nowhere) SetWriteDeadline(time.Time) error  { return nil }

// FuzzTunnel lets any bytes come behind a proper greeting, in both roles. What
// comes back is a violation or nothing, and whatever it was, the tunnel can end.
func FuzzTunnel(f *testing.F) {
	local := netip.MustParseAddrPort("10.0.0.2:15008")
	request := appendBlock(nil, 1, 0, appendConnect(nil, Target{Authority: local}), 1<<14)
	f.Add(append(request, sampleFrames()...), true)
	f.Add(append(appendBlock(nil, 1, 0, appendStatus(nil, 200), 1<<14), sampleFrames()...), false)
	f.Add(appendBlock(nil, 3, flagEndStream, appendStatus(nil, 401), 1<<14), false)
	f.Fuzz(func(t *testing.T, b []byte, server bool) {
		c := newConn(!server, nowhere{}, proof{local: local}, &hooks{incoming: func(s *Stream) bool {
			return s.Accept() == nil
		}})
		c.streamLimit = 5
		greeting := appendSettings(nil)
		if server {
			greeting = append([]byte(preface), greeting...)
		} else {
			c.reserve(Target{Authority: local})
			c.reserve(Target{Authority: local})
		}
		if err := c.feed(greeting); err != nil {
			t.Fatal(err)
		}
		err := c.feed(b)
		c.deliver()
		var bad *tunnelError
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("error %v", err)
		}
		c.abort(ErrDrained)
		if len(c.streams) != 0 || c.active != 0 {
			t.Fatalf("%d streams are left, %d counted", len(c.streams), c.active)
		}
	})
}
