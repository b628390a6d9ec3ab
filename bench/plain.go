// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
	"github.com/culvert-mesh/culvert/test/lab"
)

// end is where one of a pair of proxies is.
type end struct {
	place  *place
	listen netip.AddrPort // where it accepts
	to     netip.AddrPort // where it goes on to
}

// buildPlain makes the columns of two pods without a mesh.
func (w *world) buildPlain(ctx context.Context, _ site, nodes []*lab.Node) error {
	if err := retire(ctx, nodes); err != nil {
		return err
	}
	for i, name := range []string{"client", "server"} {
		p, err := w.pod(ctx, nodes[i], lab.PodSpec{Namespace: plain, Name: name, Unmeshed: true})
		if err != nil {
			return err
		}
		w.plain[i] = p
	}
	server := w.plain[1].pod.At("tcp4", load.Port)
	w.add(&peer{name: direct, to: server, hops: 1})
	for i, p := range pairs {
		if !w.opts.wants(p.name) {
			continue
		}
		if _, err := exec.LookPath(p.program); err != nil && p.program != "" {
			w.note("no column %s: the program %s (Debian: %s) is not installed", p.name, p.program, p.debian)
			continue
		}
		near := end{w.plain[0], w.plain[0].pod.At("tcp4", 9000+uint16(i)), w.plain[1].pod.At("tcp4", 9500+uint16(i))}
		far := end{w.plain[1], near.to, server}
		if err := w.startPair(ctx, p, near, far); err != nil {
			w.note("no column %s: %v; what it needs (Debian): %s", p.name, err, cmp.Or(p.debian, "nothing"))
		}
	}
	if w.opts.wants(wireguard) {
		if err := w.startWireGuard(ctx); err != nil {
			w.note("no column %s: %v", wireguard, err)
		}
	}
	return nil
}

// add adds a column between the plain pods.
func (w *world) add(p *peer) {
	p.near, p.far = w.plain[0], w.plain[1]
	p.client, p.server = p.near.load, p.far.load
	w.peers = append(w.peers, p)
}

// pair is a kind of proxy of which one is in each pod.
type pair struct {
	name            string
	program, debian string // needed to run it; none
	crypto          bool
	about           string
	// commands of the client's and the server's
	commands func(w *world, near, far end) ([2][]string, error)
}

var pairs = []pair{
	{name: relay, about: "no crypto, 256 KB buffers", commands: relays},
	{name: xnet, crypto: true, about: "one connection for all streams, 32 KB copies, Flush", commands: references},
	{name: stunnel, program: "stunnel", debian: "stunnel4", crypto: true, about: "a TLS connection per stream", commands: stunnels},
	{name: nginx, program: "nginx", debian: "nginx libnginx-mod-stream", crypto: true, about: "stream, 2 workers, 256 KB buffers, half-close on, a TLS connection per stream", commands: nginxes},
	{name: haproxy, program: "haproxy", debian: "haproxy", crypto: true, about: "mode tcp, 2 threads, 64 KB buffers, a TLS connection per stream", commands: haproxies},
}

func (w *world) startPair(ctx context.Context, p pair, near, far end) error {
	commands, err := p.commands(w, near, far)
	if err != nil {
		return err
	}
	column := &peer{name: p.name, to: near.listen, hops: 3, crypto: p.crypto, about: []string{p.about}}
	var counters []string
	for i, e := range []end{far, near} {
		process, err := e.place.pod.Start(p.name, commands[1-i]...)
		if err != nil {
			return err
		}
		if err := awaitListener(ctx, process, e.place, e.listen.Port()); err != nil {
			return err
		}
		column.proxies = append(column.proxies, process.PID())
		counters = append(counters, w.counter(p.name, e))
	}
	if p.name == xnet {
		column.gate, column.tunnel, column.gateway = far.listen, w.keys.Credential, column.proxies[0]
		column.sever = func() error { return near.place.pod.Sever(far.listen.Port()) }
	}
	if p.name == xnet || p.name == relay {
		column.mallocs = askAll(counters)
	}
	w.add(column)
	return nil
}

// counter is the socket at which a Go process tells its allocations.
func (w *world) counter(name string, e end) string {
	return filepath.Join(w.keys.dir, fmt.Sprintf("%s-%s.sock", name, e.place.pod.Name))
}

func relays(w *world, near, far end) (c [2][]string, err error) {
	for i, e := range []end{near, far} {
		c[i] = []string{w.self, referenceCommand, "relay", "-listen", e.listen.String(), "-to", e.to.String(), "-count", w.counter(relay, e)}
	}
	return c, nil
}

func references(w *world, near, far end) (c [2][]string, err error) {
	secrets := []string{"-cert", w.keys.Cert, "-key", w.keys.Key, "-roots", w.keys.Roots, "-name", serverName}
	c[0] = append([]string{w.self, referenceCommand, "enter", "-listen", near.listen.String(), "-gate", near.to.String(),
		"-to", far.to.String(), "-count", w.counter(xnet, near)}, secrets...)
	c[1] = append([]string{w.self, referenceCommand, "leave", "-listen", far.listen.String(), "-count", w.counter(xnet, far)}, secrets...)
	return c, nil
}

// awaitListener waits until something listens in the place, without a
// connection, which would be the first of its tunnel.
func awaitListener(ctx context.Context, p *lab.Process, at *place, port uint16) error {
	return await(ctx, p, fmt.Sprintf("listens on port %d", port), func() bool { return proc.Listens(at.load.PID, port) })
}

// await waits until a process has done what it must before it is of use.
func await(ctx context.Context, p *lab.Process, what string, done func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("timed out"))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-p.Done():
			return fmt.Errorf("%s ended: %s", p.Name, lastWords(p))
		case <-ctx.Done():
			return fmt.Errorf("await that %s %s: %w: %s", p.Name, what, context.Cause(ctx), lastWords(p))
		}
	}
	return nil
}

// lastWords is the end of what a process said.
func lastWords(p *lab.Process) string {
	text, _ := os.ReadFile(p.Log)
	return string(text[max(len(text)-1000, 0):])
}
