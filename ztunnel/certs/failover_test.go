// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/test/env"
)

// way is what lies between a node and one replica of the CA.
type way struct {
	to   string
	ln   net.Listener
	addr netip.AddrPort
	ends sync.WaitGroup

	mu     sync.Mutex
	frozen bool // so are connections that come
	conns  []*passage
}

// passage is one connection on the way.
type passage struct {
	near, far *net.TCPConn
	frozen    atomic.Bool // nothing passes, and nobody says so
}

func newWay(t *testing.T, to string) *way {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{to: to, ln: ln, addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	w.ends.Go(w.accept)
	t.Cleanup(func() { w.kill(); w.ends.Wait() })
	return w
}

func (w *way) accept() {
	for {
		near, err := w.ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			near.Close()
			continue
		}
		p := &passage{near: near.(*net.TCPConn), far: far.(*net.TCPConn)}
		w.mu.Lock()
		p.frozen.Store(w.frozen)
		w.conns = append(w.conns, p)
		w.mu.Unlock()
		w.ends.Go(func() { p.pass(p.near, p.far) })
		w.ends.Go(func() { p.pass(p.far, p.near) })
	}
}

func (p *passage) pass(from, to *net.TCPConn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err == nil && !p.frozen.Load() {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// freezeOpen drops all packets of the connections that there are.
func (w *way) freezeOpen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.conns {
		p.frozen.Store(true)
	}
}

// freeze is a network that drops all packets.
func (w *way) freeze() {
	w.mu.Lock()
	w.frozen = true
	w.mu.Unlock()
	w.freezeOpen()
}

// resetOpen ends the connections that there are.
func (w *way) resetOpen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.conns {
		p.near.SetLinger(0)
		p.near.Close()
		p.far.Close()
	}
	w.conns = nil
}

// kill is a replica that is killed: its connections are reset, and refused.
func (w *way) kill() {
	w.ln.Close()
	w.resetOpen()
}

// twoReplicas are a CA of two replicas, and a node that knows where they are.
type twoReplicas struct {
	wires  [2]*wire
	ways   [2]*way
	stops  [2]func()
	client *Client
}

func newTwoReplicas(t *testing.T, authority *ca.CA) *twoReplicas {
	t.Helper()
	p := &twoReplicas{}
	for i := range p.wires {
		var addr string
		p.wires[i] = &wire{ca: authority, pusher: newPusher()}
		addr, p.stops[i] = serve(t, p.wires[i], "127.0.0.1:0")
		p.ways[i] = newWay(t, addr)
	}
	cfg := files(t, authority)
	cfg.Address = caName + ":15012"
	cfg.Endpoints = func() []netip.AddrPort { return []netip.AddrPort{p.ways[0].addr, p.ways[1].addr} }
	p.client = dial(t, cfg)
	p.client.names.lookup = func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
		<-ctx.Done() // DNS is one of the pods that wait for their identity
		return nil, ctx.Err()
	}
	for range 4 { // both are connected
		if _, err := issue(t, p.client); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// requests is how many questions both replicas heard.
func (p *twoReplicas) requests() (n int) {
	for _, w := range p.wires {
		w.mu.Lock()
		n += len(w.tokens)
		w.mu.Unlock()
	}
	return n
}

// slow makes both think for so long.
func (p *twoReplicas) slow(d time.Duration) {
	for _, w := range p.wires {
		w.mu.Lock()
		w.slow = d
		w.mu.Unlock()
	}
}

func TestARequestIsAnsweredWithinASecondWhenAReplicaGoes(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	for name, end := range map[string]func(p *twoReplicas){
		"killed": func(p *twoReplicas) { p.ways[0].kill() },
		"closed": func(p *twoReplicas) { p.stops[0]() },
		"silent": func(p *twoReplicas) { p.ways[0].freeze() },
		"not ready": func(p *twoReplicas) {
			p.wires[0].mu.Lock()
			defer p.wires[0].mu.Unlock()
			st, err := status.New(codes.Unavailable, "the CA does not know yet what runs where").WithDetails(&identityv1.Refusal{Reason: identityv1.Reason_CA_NOT_READY})
			if err != nil {
				panic(err)
			}
			p.wires[0].err = st.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			authority := newCA(t, td)
			p99 := env.Best(time.Second, func() time.Duration { return p99While(t, rounds, authority, end) })
			if p99 > time.Second {
				t.Errorf("p99 %v", p99)
			}
		})
	}
}

// p99While is how long all but one in a hundred requests take at most while a replica goes.
func p99While(t *testing.T, rounds int, authority *ca.CA, end func(*twoReplicas)) time.Duration {
	t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	for range rounds {
		p := newTwoReplicas(t, authority)
		ended := time.Now().Add(700 * time.Millisecond)
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				for time.Now().Before(ended) {
					watch := env.NewStopwatch()
					if _, err := issue(t, p.client); err != nil {
						t.Errorf("a request failed: %v", err)
					}
					mu.Lock()
					took = append(took, watch.Elapsed())
					mu.Unlock()
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		time.Sleep(100 * time.Millisecond) // of which some requests are under way
		end(p)
		asking.Wait()
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("%d requests: p50 %v, p99 %v, most %v", len(took), took[len(took)/2], p99, took[len(took)-1])
	return p99
}

func TestASlowCAIsNotAskedTwiceForEverything(t *testing.T) {
	p := newTwoReplicas(t, newCA(t, td))
	before := p.requests()
	p.slow(2 * hedgeAfter)
	began := time.Now()
	var asking sync.WaitGroup
	for range 100 {
		asking.Go(func() {
			if _, err := issue(t, p.client); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if n, more := p.requests()-before, 2*int(hedges.Burst+hedges.PerSecond*time.Since(began).Seconds()); n > 100+more {
		t.Errorf("100 questions were asked %d times", n)
	}
}

// Looking for another replica to ask, where there is none, takes nothing from those who
// find one.
func TestOnlyAReplicaThatIsAskedCountsAsAHedge(t *testing.T) {
	beside, counted := 0, 0
	for range 5 { // on a machine that stands still, the first may answer before the second hears of it
		if beside, counted = hedgesOfOneQuestion(t); beside >= max(1, counted) {
			return
		}
	}
	t.Errorf("%d replicas were asked beside the first, and %d counted", beside, counted)
}

// hedgesOfOneQuestion returns how many replicas were asked beside the first, which are slow,
// and how many were counted.
func hedgesOfOneQuestion(t *testing.T) (beside, counted int) {
	t.Helper()
	p := newTwoReplicas(t, newCA(t, td))
	before := p.requests()
	p.slow(5 * hedgeAfter)
	if _, err := issue(t, p.client); err != nil {
		t.Fatal(err)
	}
	counted = int(hedges.Burst)
	for p.client.replicas.hedged.Spend(hedges) {
		counted--
	}
	for deadline := time.Now().Add(10 * time.Second); beside < max(1, counted) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		beside = p.requests() - before - 1 // once each has been thought about
	}
	return beside, counted
}

func TestARequestThatWasUnderWayIsPutToTheOtherReplica(t *testing.T) {
	p := newTwoReplicas(t, newCA(t, td))
	p.ways[0].freezeOpen()
	p.ways[1].freezeOpen()
	done := make(chan error, 1)
	go func() {
		_, err := issue(t, p.client)
		done <- err
	}()
	time.Sleep(50 * time.Millisecond) // it is under way to one of them
	watch := env.NewStopwatch()
	p.ways[0].kill()
	p.ways[1].resetOpen() // and this one can be reached again
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := watch.Elapsed(); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Behind the address of a Service, another connection may lead to another replica.
func TestASilentConnectionToAServiceIsLeftForAnother(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	addr, _ := serve(t, w, "127.0.0.1:0")
	service := newWay(t, addr)
	cfg := files(t, w.ca)
	cfg.Address = service.addr.String()
	c := dial(t, cfg)
	for range 2 {
		if _, err := issue(t, c); err != nil {
			t.Fatal(err)
		}
	}
	service.freezeOpen()
	for range 8 {
		watch := env.NewStopwatch()
		if _, err := issue(t, c); err != nil {
			t.Fatal(err)
		}
		// It takes a quarter of a second. Without another connection it takes ten.
		if took := watch.Elapsed(); took > 8*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

func TestDNSThatChangesIsFollowed(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	addr, stop := serve(t, w, "127.15.1.1:0")
	_, port, _ := net.SplitHostPort(addr)
	cfg := files(t, w.ca)
	cfg.Address = net.JoinHostPort(caName, port)
	c := dial(t, cfg)
	var now atomic.Value
	now.Store("127.15.1.1")
	c.names.lookup = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if host != caName {
			t.Errorf("looked up %s", host)
		}
		return []netip.Addr{netip.MustParseAddr(now.Load().(string))}, nil
	}
	if _, err := issue(t, c); err != nil {
		t.Fatal(err)
	}
	next := "127.15.1.2"
	took := env.Best(2*time.Second, func() time.Duration { // else it is looked up every five seconds
		stop()
		_, stop = serve(t, w, net.JoinHostPort(next, port))
		next = now.Swap(next).(string)
		watch := env.NewStopwatch()
		if _, err := issue(t, c); err != nil {
			t.Fatal(err)
		}
		return watch.Elapsed()
	})
	if took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestEndpointsThatComeWhileDNSDoesNotAnswerAreUsed(t *testing.T) {
	w := &wire{ca: newCA(t, td)}
	addr, _ := serve(t, w, "127.0.0.1:0")
	var known atomic.Bool
	cfg := files(t, w.ca)
	cfg.Address = caName + ":15012"
	cfg.Endpoints = func() []netip.AddrPort {
		if !known.Load() {
			return nil
		}
		return []netip.AddrPort{netip.MustParseAddrPort(addr)}
	}
	c := dial(t, cfg)
	c.names.lookup = func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	time.AfterFunc(100*time.Millisecond, func() { known.Store(true) })
	watch := env.NewStopwatch()
	if _, err := issue(t, c); err != nil {
		t.Fatal(err)
	}
	if took := watch.Elapsed(); took > lookupFor-time.Second { // until DNS is given up
		t.Errorf("it took %v", took)
	}
}

// A ConfigMap's volume is exchanged by a symbolic link to another directory.
func TestRootOfAMountedConfigMapIsReadAnew(t *testing.T) {
	w, other := &wire{ca: newCA(t, td)}, newCA(t, td)
	cfg := files(t, w.ca)
	cfg.Address, _ = serve(t, w, "127.0.0.1:0")
	dir := t.TempDir()
	mount := func(version string, authority *ca.CA) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "root.pem"), text(authority.Roots()...))
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", other)
	cfg.RootFile = filepath.Join(dir, "root.pem")
	if err := os.Symlink(filepath.Join("..data", "root.pem"), cfg.RootFile); err != nil {
		t.Fatal(err)
	}
	c := dial(t, cfg)
	wantProblem(t, c, CACertificate)
	mount("..2", w.ca)
	if _, err := issue(t, c); err != nil {
		t.Error(err)
	}
}
