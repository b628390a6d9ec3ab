// SPDX-License-Identifier: Apache-2.0

// Package verify proves on a node that what a pod says is on no wire in plaintext. A trial
// watches the devices of the node, and those of one of its pods, while a connection with a
// mark in it is open.
//
// It only reads packets: of those between the two ends it keeps counts. The kernel leaves
// out all others before they are copied. A watch sends plaintext to itself at first, the
// control: one that has not seen it has seen nothing.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

const (
	mayRun              = 4                // trials at a time: two of one question, if both pods are here
	lives               = 30 * time.Second // a trial that nobody ends
	dialFor             = 10 * time.Second
	arriveIn            = 5 * time.Second
	leastMark, mostMark = 16, 256
)

// Config says where trials look.
type Config struct {
	Host string                              // path of the node's own netns; required
	Pod  func(uid string) (*netns.NS, error) // opens the netns of a pod of this node; required
}

// Request is what one trial watches for.
type Request struct {
	Pod  string // UID of the end that is on this node; empty: only the node's devices are watched
	Pair Pair
	Mark string // 16 to 256 bytes that stand nowhere else
}

// Sent is the connection that was opened.
type Sent struct {
	From  netip.AddrPort `json:"from,omitzero"`
	To    netip.AddrPort `json:"to"`
	Error string         `json:"error,omitempty"` // why it was not opened, or not written to
}

// Findings are what came of a trial.
type Findings struct {
	Node  Seen   `json:"node"`
	Pod   *Seen  `json:"pod,omitempty"`   // nil: there is none here
	Ended string `json:"ended,omitempty"` // of the connection: how it ended before the trial did; empty: it was open
}

// Trials are those of one node. Each is begun, and ends when somebody says so or after
// 30 s.
type Trials struct {
	cfg Config

	mu   sync.Mutex // guards what follows
	open map[string]*trial
	last uint64 // of the names given
}

// New returns Trials without any.
func New(cfg Config) *Trials { return &Trials{cfg: cfg, open: map[string]*trial{}} }

// trial is one that watches.
type trial struct {
	node, pod *watch    // pod is nil if none is here
	ns        *netns.NS // the pod's
	mark      string
	expires   *time.Timer
	marked    <-chan struct{} // closed when the mark has come as far as is known here

	mu    sync.Mutex // guards what follows
	state state
	conn  net.Conn
	ended string // how it ended
}

// state is how far a trial is: watching, then sending, then sent; over from any of them.
type state int

const (
	watching state = iota
	sending
	sent
	over
)

// Begin begins to watch, and returns the trial's name.
func (t *Trials) Begin(r Request) (name string, err error) {
	switch {
	case len(r.Mark) < leastMark || len(r.Mark) > mostMark:
		return "", fmt.Errorf("mark: it has %d bytes, want %d to %d", len(r.Mark), leastMark, mostMark)
	case !r.Pair[0].IsValid() || r.Pair[0].BitLen() != r.Pair[1].BitLen() || r.Pair[0] == r.Pair[1]:
		return "", fmt.Errorf("pair: want two addresses of one family, not %v and %v", r.Pair[0], r.Pair[1])
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= mayRun {
		return "", fmt.Errorf("%d trials are running already: ask again in %v", mayRun, lives)
	}
	began, err := t.watch(r)
	if err != nil {
		return "", err
	}
	t.last++
	name = fmt.Sprintf("%d", t.last)
	t.open[name] = began
	began.expires = time.AfterFunc(lives, func() { _, _ = t.End(name) }) // it may have ended
	return name, nil
}

func (t *Trials) watch(r Request) (began *trial, err error) {
	host, err := netns.Open(t.cfg.Host)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	began = &trial{mark: r.Mark}
	if began.node, err = watchIn(host, r.Pair, []byte(r.Mark)); err != nil {
		return nil, fmt.Errorf("watch the node's devices: %w", err)
	}
	began.marked = began.node.marked
	if r.Pod == "" {
		return began, nil
	}
	if began.ns, err = t.cfg.Pod(r.Pod); err == nil {
		if began.pod, err = watchIn(began.ns, r.Pair, []byte(r.Mark)); err == nil {
			began.marked = began.pod.marked
			return began, nil
		}
		began.ns.Close()
		err = fmt.Errorf("watch the pod's devices: %w", err)
	}
	began.node.end()
	return nil, err
}

func (t *Trials) find(name string) (*trial, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if found := t.open[name]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("id: there is no trial %q; one ends by itself after %v", name, lives)
}

// Send connects from within the pod's netns as an app there does, so that the kernel steers
// the connection, and sends the mark in one line. It stays open until the trial ends.
func (t *Trials) Send(ctx context.Context, name string, to netip.AddrPort) (Sent, error) {
	found, err := t.find(name)
	if err != nil {
		return Sent{}, err
	}
	switch {
	case found.ns == nil:
		return Sent{}, errors.New("pod: this trial has none to send from")
	case !found.move(watching, sending):
		return Sent{}, errors.New("id: this trial has sent its mark")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialFor, fmt.Errorf("no answer within %v", dialFor))
	defer cancel()
	var conn net.Conn
	err = found.ns.Do(func() (err error) { // the socket is made by this thread, and so in the netns
		var d net.Dialer
		d.SetMultipathTCP(false)
		conn, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return Sent{To: to, Error: err.Error()}, nil
	}
	result := Sent{To: to, From: conn.LocalAddr().(*net.TCPAddr).AddrPort()}
	result.From = netip.AddrPortFrom(result.From.Addr().Unmap(), result.From.Port())
	_ = conn.SetDeadline(time.Now().Add(lives)) // the trial is over then
	if _, err := io.WriteString(conn, found.mark+"\n"); err != nil {
		result.Error = err.Error()
	}
	if !found.opened(conn) {
		conn.Close()
		return Sent{}, errors.New("the trial ended meanwhile")
	}
	go found.read(conn)
	return result, nil
}

// move reports whether the trial was in a state, and is in another now.
func (f *trial) move(from, to state) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != from {
		return false
	}
	f.state = to
	return true
}

func (f *trial) opened(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != sending {
		return false
	}
	f.state, f.conn = sent, conn
	return true
}

// read throws away what the app answers, until the connection ends.
func (f *trial) read(conn net.Conn) {
	_, err := io.Copy(io.Discard, conn)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.state == over:
	case err == nil:
		f.ended = "the other end closed it"
	default:
		f.ended = err.Error()
	}
}

// Await reports whether the mark has come: to the pod of this trial, or, without one, to
// the node. It waits up to five seconds. In the source's own pod the mark comes first of all.
func (t *Trials) Await(ctx context.Context, name string) (arrived bool, err error) {
	found, err := t.find(name)
	if err != nil {
		return false, err
	}
	limit := time.NewTimer(arriveIn)
	defer limit.Stop()
	select {
	case <-found.marked:
		return true, nil
	case <-limit.C:
	case <-ctx.Done():
	}
	return false, nil
}

// End closes the connection and ends a trial.
func (t *Trials) End(name string) (Findings, error) {
	found, err := t.find(name)
	if err != nil {
		return Findings{}, err
	}
	found.mu.Lock()
	conn, ended := found.conn, found.ended
	if found.state == over {
		found.mu.Unlock()
		return Findings{}, fmt.Errorf("id: trial %q has ended", name)
	}
	found.state = over
	found.mu.Unlock()
	found.expires.Stop()
	if conn != nil {
		conn.Close()
	}
	findings := Findings{Node: found.node.end(), Ended: ended}
	if found.pod != nil {
		findings.Pod = new(found.pod.end())
		found.ns.Close()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, name)
	return findings, nil
}
