// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
	"github.com/culvert-mesh/culvert/test/lab"
)

// Namespaces of the pods.
const (
	meshed = "mesh"
	plain  = "plain"
)

// world is the lab with all columns in it. Each that is a mesh has two nodes of
// its own; the others share two without any, each a pair of proxies in the
// pods: ztunnel too listens in the pods, so all have the same way to go.
type world struct {
	opts  options
	tools fieldTools
	lab   *lab.Lab
	post  *load.Post
	self  string
	keys  *keys
	peers []*peer
	notes []string

	plain   [2]*place    // client and server
	ours    *mesh        // nil: not wanted
	outside *load.Worker // on the wire, in no mesh
}

// place is a pod and the worker in it.
type place struct {
	pod     *lab.Pod
	load    *load.Worker
	serving map[string]bool // servers beside the worker, by name
}

// site is what has two nodes of its own.
type site struct {
	name  string
	build func(ctx context.Context, s site, nodes []*lab.Node) error
}

// newWorld builds the lab and all columns that are wanted. What cannot be had
// here is left out with a note.
func newWorld(ctx context.Context, opts options) (_ *world, err error) {
	w := &world{opts: opts}
	if w.tools, err = findTools(ctx, opts); err != nil {
		return nil, err
	}
	sites := w.sites()
	if w.lab, err = lab.New(ctx, lab.Options{Nodes: 2 * len(sites)}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if w.post, err = load.NewPost(w.lab.Dir()); err != nil {
		return nil, err
	}
	if w.keys, err = newKeys(filepath.Join(w.lab.Dir(), "keys")); err != nil {
		return nil, err
	}
	if err := w.lab.Namespace(meshed, map[string]string{"culvert.dev/mesh": "enabled"}); err != nil {
		return nil, err
	}
	if err := w.lab.Namespace(plain, nil); err != nil {
		return nil, err
	}
	for i, s := range sites {
		if err := s.build(ctx, s, w.lab.Nodes[2*i:2*i+2]); err != nil {
			return nil, fmt.Errorf("build the nodes of %s: %w", s.name, err)
		}
	}
	if w.outside, err = w.startLoad(w.lab.Outside.Place); err != nil {
		return nil, err
	}
	w.order()
	return w, w.proveAll(ctx)
}

// sites lists what needs nodes: the plain ones always, for calibration.
func (w *world) sites() []site {
	sites := []site{{plain, w.buildPlain}}
	if w.opts.wants(ours) || w.opts.wants(ours+sameNode) || w.opts.mixes() {
		sites = append(sites, site{ours, w.buildOurs})
	}
	for _, name := range []string{oursStd, oursAES, oursAESNI, oursPure} {
		if w.opts.wants(name) {
			sites = append(sites, site{name, w.buildOurs})
		}
	}
	for _, e := range w.opts.external {
		if slices.ContainsFunc(e.columns(), w.opts.wants) {
			sites = append(sites, site{e.name, func(ctx context.Context, s site, nodes []*lab.Node) error {
				return w.buildExternal(ctx, e, nodes)
			}})
		}
	}
	return sites
}

func (w *world) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.notes = append(w.notes, text)
	fmt.Fprintf(os.Stderr, "bench: %s\n", strings.TrimSpace(text))
}

// retire removes our ztunnel, and its programs, from a node.
func retire(ctx context.Context, nodes []*lab.Node) error {
	for _, n := range nodes {
		if err := n.Ztunnel.Stop(ctx); err != nil {
			return err
		}
		if err := os.RemoveAll(n.BPFFS); err != nil {
			return err
		}
	}
	return nil
}

// pod starts a pod with a worker.
func (w *world) pod(ctx context.Context, node *lab.Node, spec lab.PodSpec) (*place, error) {
	spec.Labels = map[string]string{"app": spec.Name}
	p, err := node.Pod(ctx, spec)
	if err != nil {
		return nil, err
	}
	// Ten thousand connections a second leave no port out of TIME_WAIT: connect()
	// then searches for milliseconds. From 61000 on they are ztunnel's.
	for name, value := range map[string]string{"ipv4/ip_local_port_range": "10000 60999", "ipv4/tcp_tw_reuse": "1"} {
		if err := p.Sysctl(name, value); err != nil {
			return nil, err
		}
	}
	if err := p.Cubic(); err != nil {
		return nil, err
	}
	l, err := w.startLoad(p.Place)
	return &place{p, l, make(map[string]bool)}, err
}

func (w *world) startLoad(at *lab.Place) (*load.Worker, error) {
	if _, err := at.Start("load", w.self, loadCommand, w.post.Path); err != nil {
		return nil, err
	}
	return w.post.Await()
}

// proveAll drops the columns that do not carry bytes as they are.
func (w *world) proveAll(ctx context.Context) (err error) {
	var good []*peer
	for _, p := range w.peers {
		if err := w.inspect(ctx, p); err != nil {
			w.note("no column %s: %v", p.name, err)
			continue
		}
		good = append(good, p)
	}
	w.peers = good
	for _, p := range good {
		if p.resting, err = proc.RSS(p.family()...); err != nil {
			return fmt.Errorf("the proxies of %s: %w", p.name, err)
		}
	}
	if len(good) == 0 {
		return errors.New("no column is left:\n" + fmt.Sprint(w.notes) + w.lab.Logs())
	}
	return ctx.Err()
}

// order puts the columns into the order of the table.
func (w *world) order() {
	rank := []string{direct, relay, ours, ours + sameNode, oursStd, oursAES, oursAESNI, oursPure, xnet}
	for _, e := range w.opts.external {
		rank = append(rank, e.columns()...)
	}
	rank = append(rank, stunnel, nginx, haproxy, wireguard)
	var sorted []*peer
	for _, name := range rank {
		for _, p := range w.peers {
			if p.name == name && w.opts.wants(name) {
				sorted = append(sorted, p)
			}
		}
	}
	w.peers = sorted
}

func (w *world) close() error {
	if w.post != nil {
		w.post.Close()
	}
	return w.lab.Close()
}
