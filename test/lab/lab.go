// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Options say what a lab is like.
type Options struct {
	Nodes        int           // how many; 2
	Unmeshed     bool          // leave out CA, ztunnels and culvert-cni; they are there
	Network      string        // the pods' main CNI plugin, ptp or bridge; ptp
	TrustDomain  string        // cluster.local
	TTL          time.Duration // of certificates; the CA's default
	TokenTTL     time.Duration // of the nodes' tokens, renewed at half of it; 1 h
	ZtunnelArgs  []string      // further flags of every ztunnel; none
	ZtunnelTags  string        // build tags of every ztunnel; none
	Apart        bool          // each node is a mesh of its own: it knows no pods of other nodes, nor their addresses
	IdentityArgs []string      // further flags of the CA; none
	Bin          string        // directory with the programs; what Build builds
}

// Lab is a running cluster.
type Lab struct {
	Nodes    []*Node
	Wire     *Wire
	Outside  *Outside  // on the wire, no pod and no node
	Identity *Identity // the CA; nil if unmeshed

	opts    Options
	bin     string
	run     *run
	thread  *thread
	cluster *cluster
	tokens  *tokens
	spaces  sync.Map // *namespace: those whose descriptors are open

	close func() error // once
}

// New builds a lab and waits until it is ready for pods. It needs root. What
// killed labs left on this machine is swept first.
func New(ctx context.Context, opts Options) (*Lab, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	bin := opts.Bin
	if bin == "" {
		var err error
		if bin, err = build(ctx, !opts.Unmeshed); err != nil {
			return nil, err
		}
	}
	if _, err := Sweep(ctx); err != nil {
		return nil, err
	}
	run, err := newRun()
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: opts, bin: bin, run: run}
	l.close = sync.OnceValue(l.remove)
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build a lab: %w", err), l.Close())
	}
	return l, nil
}

func (o *Options) complete() error {
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return fmt.Errorf("a lab of %d nodes: want 1 to %d", o.Nodes, maxNodes)
	}
	if o.Network == "" {
		o.Network = "ptp"
	}
	if o.Network != "ptp" && o.Network != "bridge" {
		return fmt.Errorf("network %q: want ptp or bridge", o.Network)
	}
	if o.TrustDomain == "" {
		o.TrustDomain = "cluster.local"
	}
	if o.TokenTTL == 0 {
		o.TokenTTL = time.Hour
	}
	return nil
}

func (l *Lab) build(ctx context.Context) (err error) {
	raiseFileLimit()
	if err := os.Mkdir(filepath.Join(l.run.dir, "log"), 0o755); err != nil {
		return err
	}
	if l.thread, err = startThread(); err != nil {
		return err
	}
	if l.Wire, err = l.newWire("wire"); err != nil {
		return err
	}
	l.cluster = newCluster()
	if err := l.addOutside(); err != nil {
		return err
	}
	for n := range l.opts.Nodes {
		node, err := l.newNode(n + 1)
		if err != nil {
			return err
		}
		l.Nodes = append(l.Nodes, node)
	}
	if err := l.routes(); err != nil {
		return err
	}
	if l.opts.Unmeshed {
		return nil
	}
	return l.startDaemons(ctx)
}

// routes tells every host on the wire where each node's pods are.
func (l *Lab) routes() error {
	hosts := []*namespace{l.Outside.ns}
	for _, n := range l.Nodes {
		hosts = append(hosts, n.ns)
	}
	for _, h := range hosts {
		for _, n := range l.Nodes {
			if h == n.ns {
				continue
			}
			if err := errors.Join(h.route(n.PodCIDR4, n.IP4), h.route(n.PodCIDR6, n.IP6)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) startDaemons(ctx context.Context) (err error) {
	if l.tokens, err = newTokens(l.opts.TokenTTL); err != nil {
		return err
	}
	opts := IdentityOptions{TrustDomain: l.opts.TrustDomain, TTL: l.opts.TTL, Args: l.opts.IdentityArgs}
	if l.Identity, err = l.StartIdentity(ctx, opts); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range l.Nodes {
		group.Go(func() error { return n.StartZtunnel(ctx, ZtunnelOptions{}) })
	}
	return group.Wait()
}

// Close ends all processes of the lab and removes all it made. It may be
// called more than once.
func (l *Lab) Close() error { return l.close() }

func (l *Lab) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if l.tokens != nil {
		l.tokens.stop()
	}
	l.spaces.Range(func(ns, _ any) bool {
		ns.(*namespace).close()
		return true
	})
	err := l.run.remove(ctx)
	if l.thread != nil {
		close(l.thread.quit)
	}
	return err
}

// Dir is the run's directory: logs, and what each node has.
func (l *Lab) Dir() string { return l.run.dir }

// program is the path of one of our own programs.
func (l *Lab) program(name string) string { return filepath.Join(l.bin, name) }

// raiseFileLimit lets the lab's processes, which inherit the limit, hold ten
// thousand connections. If it may not, those that do not fit will say EMFILE.
func raiseFileLimit() {
	const files = 1 << 19
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
}
