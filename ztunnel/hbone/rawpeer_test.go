// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// rawPeer speaks HTTP/2 over TLS through x/net's Framer, so that what both
// sides here believe is not only what we believe. It does what a test says, and
// nothing by itself.
type rawPeer struct {
	t testing.TB
	*http2.Framer
	conn  *tls.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
	wmu   sync.Mutex // one writes at a time, where several want to
}

func newRawPeer(t testing.TB, conn *tls.Conn) *rawPeer {
	t.Helper()
	t.Cleanup(func() { conn.NetConn().Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	p := &rawPeer{t: t, Framer: http2.NewFramer(conn, conn), conn: conn}
	p.Framer.AllowIllegalWrites = true
	p.Framer.SetMaxReadFrameSize(h2.FrameLimit)
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.block)
	return p
}

// rawClient connects to a link's listener and says nothing but TLS.
func (l *link) rawClient() *rawPeer {
	l.t.Helper()
	conn, err := tls.Dial("tcp", l.key.Addr.String(), l.ca.credential(clientID, serverID, time.Hour).Config)
	if err != nil {
		l.t.Fatal(err)
	}
	return newRawPeer(l.t, conn)
}

// greetedClient has exchanged prefaces and SETTINGS.
func (l *link) greetedClient() *rawPeer {
	l.t.Helper()
	p := l.rawClient()
	p.greet()
	return p
}

// greet exchanges prefaces and SETTINGS, as a client.
func (p *rawPeer) greet() {
	p.t.Helper()
	p.do(io.WriteString(p.conn, h2.Preface))
	p.must(p.WriteSettings())
	p.until(isSettings)
	p.must(p.WriteSettingsAck())
}

// rawServer is a link whose listener's place is taken by a raw peer, given to
// serve once per tunnel. Its pool opens streams at it.
func rawServer(t testing.TB, serve func(*rawPeer)) *link {
	t.Helper()
	l := &link{t: t, ca: newAuthority(t)}
	ln := listenTCP(t)
	l.key = Key{serverID, socket.AddrPort(ln.Addr())}
	config := l.ca.credential(serverID, clientID, time.Hour).Config
	client := l.ca.credential(clientID, serverID, time.Hour)
	l.pool = NewPool(PoolConfig{
		Dial:       l.dial,
		Credential: func(context.Context, Key) (Credential, error) { return client, nil },
	})
	l.served.Go(func() {
		for {
			socket, err := ln.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(socket, config)
			if err := conn.Handshake(); err != nil {
				socket.Close()
				continue
			}
			l.served.Go(func() { serve(newRawPeer(t, conn)) })
		}
	})
	t.Cleanup(func() {
		l.pool.Close()
		ln.Close()
		l.served.Wait()
	})
	return l
}

// greetedServer is a rawServer that has exchanged prefaces and SETTINGS.
func greetedServer(t testing.TB, serve func(*rawPeer), settings ...http2.Setting) *link {
	return rawServer(t, func(p *rawPeer) {
		if _, err := io.ReadFull(p.conn, make([]byte, len(h2.Preface))); err != nil {
			return
		}
		p.must(p.WriteSettings(settings...))
		if _, err := p.find(isSettings); err != nil {
			return
		}
		p.must(p.WriteSettingsAck())
		serve(p)
	})
}

// must fails the test, unless it has ended and closed the peer.
func (p *rawPeer) must(err error) {
	p.t.Helper()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		p.t.Errorf("raw peer: %v", err)
	}
}

func (p *rawPeer) do(_ int, err error) { p.t.Helper(); p.must(err) }

// headers encodes a block of name, value pairs.
func (p *rawPeer) headers(pairs ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(p.block.Bytes())
}

func (p *rawPeer) writeHeaders(id uint32, end bool, pairs ...string) error {
	return p.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: p.headers(pairs...), EndHeaders: true, EndStream: end,
	})
}

// connect asks for a stream to the listener's own address.
func (p *rawPeer) connect(id uint32) error {
	return p.writeHeaders(id, false, ":method", "CONNECT", ":authority", p.authority())
}

// alone has do write while nobody else does.
func (p *rawPeer) alone(do func() error) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	return do()
}

func (p *rawPeer) connectTo(id uint32, authority netip.AddrPort) error {
	return p.alone(func() error {
		return p.writeHeaders(id, false, ":method", "CONNECT", ":authority", authority.String())
	})
}

func (p *rawPeer) authority() string {
	return net.JoinHostPort(socket.AddrPort(p.conn.RemoteAddr()).Addr().String(), "8080")
}

func isSettings(f http2.Frame) bool {
	s, ok := f.(*http2.SettingsFrame)
	return ok && !s.IsAck()
}

func is[F http2.Frame](f http2.Frame) bool { _, ok := f.(F); return ok }

// find reads up to the first frame that matches.
func (p *rawPeer) find(match func(http2.Frame) bool) (http2.Frame, error) {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return nil, err
		}
		if match(f) {
			return f, nil
		}
	}
}

// until is find that fails the test.
func (p *rawPeer) until(match func(http2.Frame) bool) http2.Frame {
	p.t.Helper()
	f, err := p.find(match)
	if err != nil {
		p.t.Fatalf("waiting for a frame: %v", err)
	}
	return f
}

// opened opens a stream and waits for the 200.
func (p *rawPeer) opened(id uint32) {
	p.t.Helper()
	p.must(p.connect(id))
	f := p.until(is[*http2.MetaHeadersFrame]).(*http2.MetaHeadersFrame)
	if f.StreamID != id || f.PseudoValue("status") != "200" {
		p.t.Fatalf("answer on stream %d: %v", f.StreamID, f)
	}
}

// wantGoAway reads until the tunnel is closed, for that reason.
func (p *rawPeer) wantGoAway(want http2.ErrCode) {
	p.t.Helper()
	f, err := p.find(is[*http2.GoAwayFrame])
	if err != nil {
		p.t.Fatalf("no GOAWAY but %v", err)
	}
	if g := f.(*http2.GoAwayFrame); g.ErrCode != want {
		p.t.Fatalf("GOAWAY %v %q, want %v", g.ErrCode, g.DebugData(), want)
	}
	for err == nil {
		_, err = p.ReadFrame()
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		p.t.Fatal("tunnel is not closed")
	}
}

// wantReset reads until a stream is reset, for that reason.
func (p *rawPeer) wantReset(id uint32, want http2.ErrCode) {
	p.t.Helper()
	f := p.until(is[*http2.RSTStreamFrame]).(*http2.RSTStreamFrame)
	if f.StreamID != id || f.ErrCode != want {
		p.t.Fatalf("RST_STREAM %v on stream %d, want %v on %d", f.ErrCode, f.StreamID, want, id)
	}
}

// wantAlive shows that the tunnel still works, by PING.
func (p *rawPeer) wantAlive() {
	p.t.Helper()
	data := [8]byte{'a', 'l', 'i', 'v', 'e'}
	p.must(p.WritePing(false, data))
	p.until(func(f http2.Frame) bool {
		ping, ok := f.(*http2.PingFrame)
		return ok && ping.IsAck() && ping.Data == data
	})
}

// answerPings does nothing else until the tunnel ends.
func (p *rawPeer) answerPings() {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return
		}
		if ping, ok := f.(*http2.PingFrame); ok && !ping.IsAck() {
			p.alone(func() error { return p.WritePing(true, ping.Data) })
		}
	}
}
