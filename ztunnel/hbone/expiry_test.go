// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// Law 6: without new certificates everything ends with the old ones.
func TestStreamsEndWithTheCertificatesThatNobodyRenewed(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		end := time.Now().Add(time.Hour)
		near, far := b.open()
		for _, told := range append(b.pool.Tunnels(), b.ln.Tunnels()...) {
			if told.Until.Sub(end).Abs() > time.Second || told.PeerSerial == "" {
				t.Errorf("it says that its certificates hold until %v, not %v: %+v", told.Until, end, told)
			}
		}
		b.setDown(true) // no younger tunnel can be made
		pass(time.Hour - 2*time.Second)
		wantOpen(t, near, far)
		if b.countDials() < 2 {
			t.Error("no younger tunnel was tried")
		}
		pass(2 * time.Second)
		wantEnd(t, near, ErrExpired)
		wantEnd(t, far, ErrExpired)
		pass(time.Second)
		if n := b.pool.Stats().Tunnels + b.ln.Stats().Tunnels; n != 0 {
			t.Errorf("%d tunnels", n)
		}
	})
}

// Over a few KB/s a handshake takes seconds, however short the certificates live.
func TestStreamsOutliveShortCertificatesOverASlowPath(t *testing.T) {
	inBubble(t, 20*time.Second, func(t *testing.T, b *bubble) {
		connect := b.pool.connect
		b.pool.connect = func(ctx context.Context, key Key) (net.Conn, error) {
			pass(3 * time.Second)
			return connect(ctx, key)
		}
		near, far := b.open()
		pass(time.Minute)
		wantOpen(t, near, far)
	})
}

// A younger tunnel with the same certificates proves nothing new.
func TestYoungerTunnelMustProveMore(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		end := time.Now().Add(time.Hour)
		client, server := b.ca.credential(clientID, serverID, time.Hour), b.ca.credential(serverID, clientID, time.Hour)
		b.pool.cfg.Credential = func(context.Context, Key) (Credential, error) { return client, nil }
		b.ln.cfg.Credential = func(context.Context) (Credential, error) { return server, nil }
		near, far := b.open()
		pass(time.Until(end) - time.Second)
		wantOpen(t, near, far)
		pass(time.Second)
		wantEnd(t, near, ErrExpired)
		wantEnd(t, far, ErrExpired)
	})
}

// Law 6: open streams live as long as younger tunnels prove both ends anew.
func TestStreamsOutliveTheirCertificatesBehindYoungerTunnels(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.open()
		pass(10 * time.Hour)
		wantOpen(t, near, far)
		if n := b.countDials(); n < 10 || n > 14 {
			t.Errorf("%d dials in 10 hours", n)
		}
		other, _ := b.open()
		if other.c == near.c {
			t.Error("an expired tunnel took a stream")
		}
		b.setDown(true)
		pass(time.Hour + time.Minute)
		wantEnd(t, near, ErrExpired)
		wantEnd(t, far, ErrExpired)
	})
}

// Law 6: a listener's GOAWAY makes the peer prove itself again.
func TestRotationAtTheListenerBringsAYoungerTunnel(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.open()
		pass(30 * time.Minute)
		b.ln.Retire(Rotated)
		pass(5 * time.Second)
		if n := b.countDials(); n != 2 {
			t.Errorf("%d dials", n)
		}
		wantOpen(t, near, far)
		other, _ := b.open()
		if other.c == near.c || b.countDials() != 2 {
			t.Error("want the second stream in the younger tunnel")
		}
		other.Reset()
		b.setDown(true)
		pass(45 * time.Minute) // past the first tunnel's end
		wantOpen(t, near, far)
		pass(16 * time.Minute)
		wantEnd(t, near, ErrExpired)
		wantEnd(t, far, ErrExpired)
	})
}

// Law 6: a peer that does not come back loses its streams at expiry, not before.
func TestForeignPeerThatDoesNotComeBackExpires(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		near, far := b.open()
		b.setDown(true)
		pass(30 * time.Minute)
		b.ln.Retire(Rotated)
		pass(29 * time.Minute)
		wantOpen(t, near, far)
		pass(time.Minute + time.Second)
		wantEnd(t, near, ErrExpired)
		wantEnd(t, far, ErrExpired)
	})
}

// Rotation must not fail those who are shaking hands at that moment.
func TestRetireDuringAHandshakeFailsNobody(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		once := sync.OnceFunc(func() { b.ln.Retire(Rotated) })
		credential := b.ln.cfg.Credential
		b.ln.cfg.Credential = func(ctx context.Context) (Credential, error) {
			defer once()
			return credential(ctx)
		}
		near, far := b.open()
		pass(5 * time.Second)
		wantOpen(t, near, far)
		b.open()
		if n := b.countDials(); n != 2 {
			t.Errorf("%d dials, want one for each credential", n)
		}
	})
}

// Law 6: what is proved by credentials that were replaced meanwhile does not count.
func TestTunnelOfReplacedCredentialsExtendsNothing(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		_, far := b.open()
		b.setDown(true)
		b.ln.cfg.Credential = func(context.Context) (Credential, error) {
			defer b.ln.Retire(Rotated)
			return b.ca.credential(serverID, clientID, 10*time.Hour), nil
		}
		near, end := b.pipe()
		b.ln.begin(end)
		younger := tls.Client(near, b.ca.credential(clientID, serverID, 10*time.Hour).Config)
		go func() {
			io.WriteString(younger, h2.Preface)
			io.Copy(io.Discard, younger)
		}()
		pass(59 * time.Minute)
		wantOpen(t, far)
		pass(time.Minute + time.Second)
		wantEnd(t, far, ErrExpired)
	})
}

// A tunnel whose certificates ran out takes no streams, though a younger one
// keeps its open streams alive.
func TestOutdatedTunnelRefusesStreamsAtTheListener(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(false)
		go func() {
			io.WriteString(p.conn, h2.Preface)
			p.alone(func() error { return p.WriteSettings() })
			p.connectTo(1, b.key.Addr)
		}()
		p.until(is[*http2.MetaHeadersFrame])
		far := <-b.arrived
		frames := make(chan http2.Frame, 1000)
		go func() {
			for {
				f, err := p.ReadFrame()
				if err != nil {
					close(frames)
					return
				}
				if ping, ok := f.(*http2.PingFrame); ok && ping.Data != pingData {
					p.alone(func() error { return p.WritePing(true, ping.Data) })
				}
				frames <- f
			}
		}()
		pass(30 * time.Minute)
		younger, _ := b.open() // the same peer, from the same address
		pass(31 * time.Minute)
		wantOpen(t, far, younger)
		for len(frames) > 0 {
			<-frames
		}
		p.connectTo(3, b.key.Addr)
		f, ok := (<-frames).(*http2.RSTStreamFrame)
		if !ok || f.StreamID != 3 || f.ErrCode != http2.ErrCodeRefusedStream {
			t.Errorf("%v", f)
		}
	})
}

// Law 6: who does not come by itself is asked to, shortly before the end.
func TestListenerAsksForAYoungerTunnelBeforeTheEnd(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.ln.cfg.IdleTimeout = 24 * time.Hour
		p := b.raw(false)
		go func() {
			io.WriteString(p.conn, h2.Preface)
			p.alone(func() error { return p.WriteSettings() })
		}()
		begin := time.Now()
		for {
			f, err := p.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if ping, ok := f.(*http2.PingFrame); ok {
				p.alone(func() error { return p.WritePing(true, ping.Data) })
			}
			if is[*http2.GoAwayFrame](f) {
				break
			}
		}
		if lived := time.Since(begin); lived < time.Hour-renewMargin || lived >= time.Hour {
			t.Errorf("asked after %v", lived)
		}
	})
}

func TestTunnelsOfOtherPeersProveNothing(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.ln.cfg.Credential = func(context.Context) (Credential, error) {
			return b.ca.credential(serverID, spiffeid.ID{}, b.ttl), nil
		}
		_, far := b.open()
		b.setDown(true)
		pass(30 * time.Minute)
		stranger := tls.Client(func() net.Conn {
			near, end := b.pipe()
			b.ln.begin(end)
			return near
		}(), b.ca.credential(otherID, serverID, b.ttl).Config)
		go func() {
			io.WriteString(stranger, h2.Preface)
			p := b.rawOver(stranger)
			p.alone(func() error { return p.WriteSettings() })
			for {
				f, err := p.ReadFrame()
				if err != nil {
					return
				}
				if ping, ok := f.(*http2.PingFrame); ok {
					p.alone(func() error { return p.WritePing(true, ping.Data) })
				}
			}
		}()
		pass(30*time.Minute + time.Second)
		wantEnd(t, far, ErrExpired)
	})
}
