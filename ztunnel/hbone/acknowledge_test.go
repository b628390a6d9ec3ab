// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// tornTunnel is a Listener's tunnel that its peer broke while it held bytes that the peer
// has not acknowledged. The peer's app said much in stream 1, which server reads late.
type tornTunnel struct {
	server *app
	said   []byte
}

// tear makes one. The server's end of the stream has arrived before if bye is true, else it
// is among what the peer has not acknowledged.
func tear(t *testing.T, bye bool) tornTunnel {
	t.Helper()
	apps := make(chan *app, 2)
	l := newLink(t, func(s *Stream) {
		if s.Accept() == nil {
			apps <- carryNarrow(t, s)
		}
	})
	p := l.rawClient()
	p.do(io.WriteString(p.conn, h2.Preface))
	p.must(p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 64 << 20}))
	p.until(isSettings)
	p.must(p.WriteSettingsAck())
	p.must(p.WriteWindowUpdate(0, 64<<20))
	p.opened(1)
	torn := tornTunnel{<-apps, pattern(3, 300<<10)}
	c := torn.server.s.c
	if bye {
		torn.server.write("bye")
		torn.server.CloseWrite()
		p.until(func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && d.StreamEnded() })
	}
	p.opened(3)
	other := <-apps
	c.openWindow(1, wideWindow)
	for rest := torn.said; len(rest) > 0; {
		n := min(len(rest), 10000)
		p.must(p.WriteData(1, n == len(rest), rest[:n]))
		rest = rest[n:]
	}
	waitUntil(t, func() bool { return torn.server.s.queuedBytes() > 0 && torn.server.s.toApp.is(receiverEnded) })
	other.do(other.Write(make([]byte, 200<<10))) // more than the peer's kernel takes for it
	waitUntil(t, func() bool { return other.s.Totals().Sent == 200<<10 })
	torn.server.CloseWrite()
	waitUntil(t, torn.server.s.isMarked)
	p.conn.NetConn().Close() // with bytes unread: a reset
	waitUntil(t, c.isClosed)
	return torn
}

func (s *Stream) isMarked() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.mark != notWritten
}

// What another stream lost is nothing to one of which the peer acknowledged all, though
// its app still has to read what came.
func TestAStreamIsProvenByWhatItsPeerAcknowledgedBeforeTheTunnelBroke(t *testing.T) {
	torn := tear(t, true)
	torn.server.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(torn.server); err != nil || !bytes.Equal(got, torn.said) {
		t.Errorf("the app read %d of %d bytes, then %v", len(got), len(torn.said), err)
	}
	if r := torn.server.wait(t); r.err != nil {
		t.Errorf("Carry: %v", r.err)
	}
}

// Nobody knows whether the end of this one arrived.
func TestAStreamThatEndedBehindLostBytesIsNotProven(t *testing.T) {
	torn := tear(t, false)
	go io.Copy(io.Discard, torn.server)
	if r := torn.server.wait(t); !errors.Is(r.err, ErrReset) {
		t.Errorf("Carry: %v", r.err)
	}
}
