// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

// dearCredential is serverID's, which takes long to refuse a stranger, and counts them.
func (l *link) dearCredential(cost time.Duration, refused *atomic.Int64) func(context.Context) (Credential, error) {
	cred := l.ca.credential(serverID, clientID, time.Hour)
	verify := cred.Config.VerifyConnection
	cred.Config.VerifyConnection = func(state tls.ConnectionState) error {
		err := verify(state)
		if err != nil {
			for begin := time.Now(); time.Since(begin) < cost; {
			}
			refused.Add(1)
		}
		return err
	}
	return func(context.Context) (Credential, error) { return cred, nil }
}

// Two pods are besieged by 48 strangers at one address; each refusal computes
// for 60 ms, as it did before a stranger's chain was bounded. First come, first served
// would be 47 of them before each turn of a good handshake, which takes several.
func TestFloodOfStrangersDelaysNoGoodHandshakeByASecond(t *testing.T) {
	l := newLink(t, nil)
	gate := NewGate()
	gate.slots = 1
	var refused atomic.Int64
	credential := l.dearCredential(60*time.Millisecond, &refused)
	listen := func() *Listener {
		return startListener(t, ListenerConfig{Credential: credential, Records: l.ln.cfg.Records, Door: gate.Door()})
	}
	far := &link{t: t, pool: l.pool, ln: listen()}
	far.acceptAll(far.echo)
	l.key.Addr = far.ln.Addr()
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	stranger := newAuthority(t).credential(otherID, serverID, time.Hour).Config
	stranger.VerifyConnection = nil
	for i, other := 0, listen(); i < 48; i++ {
		to := []*Listener{far.ln, other}[i%2].Addr()
		all.Go(func() { pester(ctx, to, stranger) })
	}
	waitUntil(t, func() bool {
		gate.mu.Lock()
		defer gate.mu.Unlock()
		return len(gate.waiting) > 32
	})

	var most int64
	for range 5 {
		before := refused.Load()
		a := l.open()
		most = max(most, refused.Load()-before)
		a.write("x")
		a.wantRead("x")
		l.pool.Retire(Rotated) // the next needs another tunnel
	}
	t.Logf("a good handshake waited for %d strangers at most", most)
	if most > 16 { // a second
		t.Errorf("a good handshake waited for %d strangers", most)
	}
}

// pester shakes hands from 127.0.0.66 with a certificate that nobody knows, again
// and again.
func pester(ctx context.Context, to netip.AddrPort, config *tls.Config) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 66)}}
	for ctx.Err() == nil {
		conn, err := d.DialContext(ctx, "tcp4", to.String())
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		c := tls.Client(conn, config)
		if c.HandshakeContext(ctx) == nil {
			c.Read(make([]byte, 1)) // until it is refused
		}
		conn.Close()
		stop()
	}
}

func TestDialWaitsForItsTurnAmongTheHandshakesOfTheProcess(t *testing.T) {
	l := newLink(t, nil)
	gate := NewGate()
	gate.slots = 1
	l.pool.cfg.Door = gate.Door()
	busy := gate.Door().enter(netip.MustParseAddr("10.0.0.1"), nil)
	busy.take(t.Context())
	opened := make(chan *app, 1)
	go func() { opened <- l.open() }()
	waitUntil(t, func() bool {
		gate.mu.Lock()
		defer gate.mu.Unlock()
		return len(gate.waiting) == 1
	})
	busy.release()
	busy.leave()
	a := <-opened
	a.write("x")
	a.wantRead("x")
	if n := gate.accounts[alone(l.key.Addr.Addr())].tunnels; n != 1 {
		t.Errorf("the peer has %d tunnels", n)
	}
	l.pool.Close()
	if account := gate.accounts[alone(l.key.Addr.Addr())]; account.tunnels != 0 || !account.known(time.Now()) || len(gate.inside) != 0 {
		t.Errorf("%+v, and %d under way", account, len(gate.inside))
	}
}

func TestNobodyComputesBehindAPeerThatTakesNothing(t *testing.T) {
	near, far := net.Pipe() // without a buffer
	gate := NewGate()
	v := gate.Door().enter(netip.Addr{}, nil)
	var done sync.WaitGroup
	done.Go(func() {
		v.secure(t.Context(), near, false, OwnRecords, newAuthority(t).credential(serverID, clientID, time.Hour))
	})
	far.Write(clientHello(t))
	if _, err := far.Read(make([]byte, 1)); err != nil { // the rest of the answer waits
		t.Fatal(err)
	}
	gate.mu.Lock()
	if gate.running != 0 {
		t.Errorf("%d have a slot", gate.running)
	}
	gate.mu.Unlock()
	far.Close()
	done.Wait()
	near.Close()
}

// refusedClient shakes hands with a certificate that the link's listener refuses.
func (l *link) refusedClient() net.Conn {
	l.t.Helper()
	config := newAuthority(l.t).credential(otherID, serverID, time.Hour).Config
	config.VerifyConnection = nil
	socket, err := net.Dial("tcp", l.ln.Addr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { socket.Close() })
	if err := tls.Client(socket, config).Handshake(); err != nil {
		l.t.Fatal(err)
	}
	return socket
}

func TestRefusedHandshakeIsCountedUntilItsSocketIsClosed(t *testing.T) {
	l := newLink(t, nil)
	door, share := NewGate().Door(), new(counted)
	share.most.Store(1)
	type count struct{ handshakes, sockets int }
	counts := make(chan count, 1)
	far := &link{t: t, ca: l.ca}
	far.ln = startListener(t, ListenerConfig{Credential: l.ln.cfg.Credential, Records: l.ln.cfg.Records, Share: share, Door: door,
		Refused: func(netip.AddrPort, error) {
			door.gate.mu.Lock()
			defer door.gate.mu.Unlock()
			counts <- count{door.account.inside, int(share.held.Load())}
		}})
	socket := far.refusedClient()
	if got := <-counts; got != (count{1, 1}) {
		t.Errorf("while it reads why it was refused: %+v", got)
	}
	socket.Close()
	share.wantHeld(t, 0)
	waitUntil(t, func() bool {
		door.gate.mu.Lock()
		defer door.gate.mu.Unlock()
		return door.account.inside == 0
	})
}

func TestSocketThatLingersMakesRoom(t *testing.T) {
	ctx, evict := context.WithCancel(t.Context())
	evict()
	took := env.Best(hangUpTimeout/2, func() time.Duration {
		near, far := socketPair(t)
		defer far.Close()
		watch := env.NewStopwatch()
		linger(ctx, near)
		return watch.Elapsed()
	})
	if took >= hangUpTimeout {
		t.Errorf("it lingered for %v", took)
	}
}

// What a peer says is parsed before anybody may look at it.
func TestHandshakeThatSaysTooMuchIsCutShort(t *testing.T) {
	ca := newAuthority(t)
	talkative := ca.credential(clientID, serverID, time.Hour)
	leaf := &talkative.Config.Certificates[0]
	for size := 0; size < handshakeSize; size += len(leaf.Certificate[0]) {
		leaf.Certificate = append(leaf.Certificate, leaf.Certificate[0])
	}
	patient := ca.credential(serverID, clientID, time.Hour)
	patient.Config.VerifyConnection = func(tls.ConnectionState) error { return errors.New("it was parsed") }
	for _, records := range []Records{OwnRecords, StdRecords} {
		for _, client := range []bool{false, true} {
			near, far := socketPair(t)
			var done sync.WaitGroup
			done.Go(func() {
				defer far.Close()
				if client {
					tls.Server(far, talkative.Config).Handshake()
				} else if c := tls.Client(far, talkative.Config); c.Handshake() == nil {
					c.Read(make([]byte, 1))
				}
			})
			v := NewGate().Door().enter(netip.Addr{}, nil)
			_, _, err := v.secure(t.Context(), near, client, records, patient)
			if err == nil || !strings.Contains(err.Error(), "handshake of more than") {
				t.Errorf("records %v, as client %v: %v", records, client, err)
			}
			near.Close()
			done.Wait()
		}
	}
}
