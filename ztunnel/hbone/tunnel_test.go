// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
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
func (nowhere) Written() uint64                   { return 0 }

// someFrames is a little of what a peer sends.
func someFrames() []byte {
	b := h2.AppendSettings(nil, h2.Setting{ID: h2.SettingWindow, Value: 1 << 20})
	b = append(h2.AppendFrame(b, 5, h2.KindData, 0, 1), "hello"...)
	b = append(h2.AppendFrame(b, 4, h2.KindData, h2.FlagPadded|h2.FlagEndStream, 1), 2, 'x', 0, 0)
	b = h2.AppendPing(h2.AppendWindowUpdate(h2.AppendReset(b, 3, h2.CodeCancel), 0, 77), 0, [8]byte{1})
	return h2.AppendGoAway(b, 11, h2.CodeNone, "bye")
}

// FuzzTunnel lets any bytes come behind a proper greeting, in both roles. What
// comes back is a violation or nothing, and whatever it was, the tunnel can end.
func FuzzTunnel(f *testing.F) {
	local := netip.MustParseAddrPort("10.0.0.2:15008")
	request := h2.AppendBlock(nil, 1, 0, h2.AppendConnect(nil, Target{Authority: local}), 1<<14)
	f.Add(append(request, someFrames()...), true)
	f.Add(append(h2.AppendBlock(nil, 1, 0, h2.AppendStatus(nil, 200), 1<<14), someFrames()...), false)
	f.Add(h2.AppendBlock(nil, 3, h2.FlagEndStream, h2.AppendStatus(nil, 401), 1<<14), false)
	f.Fuzz(func(t *testing.T, b []byte, server bool) {
		c := newConn(!server, nowhere{}, proof{local: local}, &hooks{incoming: func(s *Stream) bool {
			return s.Accept() == nil
		}})
		c.streamLimit = 5
		greeting := h2.AppendSettings(nil)
		if server {
			greeting = append([]byte(h2.Preface), greeting...)
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
