// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// world is the two nodes, the path between them, and what goes on.
type world struct {
	rng     *rand.Rand
	nodes   [2]*node
	path    *path
	talks   *talks
	ledger  *ledger
	weather *weather
	ca      *authority
	cancel  context.CancelFunc
}

const leafLife = 25 * time.Second // the CA gives none that is shorter

func newWorld(seed uint64) (w *world, err error) {
	w = &world{rng: rand.New(rand.NewPCG(seed, 1)), ledger: newLedger()}
	w.talks = newTalks(seed, w.ledger)
	w.weather = &weather{nodes: w.nodes[:], talks: w.talks, rng: rand.New(rand.NewPCG(seed, 3))}
	w.talks.weather = w.weather // before a certificate's rotation can note it
	if w.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	registry := workload.NewRegistry([]netip.Prefix{netip.MustParsePrefix("10.90.0.0/24"), netip.MustParsePrefix("fd90::/64")})
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	var mesh workload.Mesh
	var ends [2]*os.File
	for i := range w.nodes {
		n := &node{
			name: fmt.Sprintf("node%d", i), base: ctx, registry: registry, peers: proxy.NewPeers(registry),
			ledger: w.ledger, talks: w.talks, metrics: metrics.New(metrics.Config{}),
			prefixes: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.90.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd90::%d/64", i+1))},
		}
		if w.rng.IntN(3) == 0 {
			n.records = hbone.StdRecords
			fmt.Printf("stress: the TLS records of %s are crypto/tls's\n", n.name)
		}
		n.id = spiffeid.RequireFromPath(trustDomain, "/ns/stress/sa/"+n.name)
		w.nodes[i] = n
		mesh.Workloads = append(mesh.Workloads, workload.Pack(n.workload())...)
		if ends[i], err = n.open(issuer{w.ca, n.name}); err != nil {
			return nil, fmt.Errorf("%s: %w", n.name, err)
		}
	}
	w.nodes[0].other, w.nodes[1].other = w.nodes[1], w.nodes[0]
	registry.Replace(mesh)
	w.path = newPath(ends[0], ends[1], rand.New(rand.NewPCG(seed, 2)))
	w.weather.path = w.path
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

var trustDomain = spiffeid.RequireTrustDomainFromString("cluster.local")

func (n *node) workload() workload.Workload {
	return workload.Workload{
		UID: n.name, Namespace: "stress", Name: n.name, ServiceAccount: n.name, ID: n.id,
		Addrs: []netip.Addr{n.addr(false), n.addr(true)}, Meshed: true, Ready: true,
	}
}

// open makes what outlives a restart: namespace, device, certificates, apps.
func (n *node) open(by certs.Issuer) (device *os.File, err error) {
	if n.ns, err = netns.New(); err != nil {
		return nil, err
	}
	if device, err = openDevice(n.ns, n.prefixes); err != nil {
		return nil, err
	}
	n.store = certs.New(certs.Config{
		TrustDomain: trustDomain, Issuer: by, TTL: leafLife, Log: slog.New(slog.DiscardHandler),
		OnRotate: func(spiffeid.ID) {
			n.talks.weather.note("%s has a new certificate", n.name)
			n.retire(true, true)
		},
		OnBundle: n.reprove,
	})
	n.always.Go(func() { _ = n.store.Run(n.base) })
	n.always.Go(func() { _ = n.peers.Run(n.base) })
	n.store.Hold(n.id)
	if n.apps, err = n.ns.Listen(n.base, netip.AddrPortFrom(loopback, 0), nil); err != nil {
		return nil, err
	}
	n.always.Go(n.serveApps)
	return device, nil
}

const mostTalks = 200

// run has talks begin for a while, and lets all end.
func (w *world) run(ctx context.Context, length time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var weather, all sync.WaitGroup
	weather.Go(func() { w.weather.run(ctx) })
	weather.Go(func() { w.weather.replaceRoots(ctx, w.ca, rand.New(rand.NewPCG(w.talks.seed, 4))) })
	crowd, until := w.crowd(), time.Now()
	for ctx.Err() == nil {
		if time.Since(until) > 0 {
			crowd, until = w.crowd(), time.Now().Add(time.Duration(w.rng.IntN(5000))*time.Millisecond)
		}
		if len(w.talks.all()) < crowd {
			w.begin(&all)
		}
		pause := time.NewTimer(time.Duration(w.rng.IntN(30)) * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	weather.Wait()
	w.finish(&all)
}

// crowd is how many talk at once for the next seconds.
func (w *world) crowd() int { return []int{1, 3, 10, 50, mostTalks}[w.rng.IntN(5)] }

// begin has one talk more, for no more bytes than the path moves in some seconds.
func (w *world) begin(all *sync.WaitGroup) {
	p := newPlan(w.rng, w.path.conditions().rate*4/(1+len(w.talks.all())))
	t := w.talks.begin(p, w.nodes[1-p.from].addr(p.v6))
	all.Go(func() {
		t.run(w.nodes[p.from])
		t.judge()
	})
}

// stillness is how long no app may read a byte before those that are left are stuck.
const stillness = 90 * time.Second

// finish waits for the talks to end for as long as any moves.
func (w *world) finish(all *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	for moved, since := int64(-1), time.Now(); ; {
		select {
		case <-done:
			return
		case <-time.After(time.Second):
		}
		if now := w.talks.progress.Load() + int64(w.talks.finished()); now != moved {
			moved, since = now, time.Now()
		}
		if time.Since(since) > stillness {
			break
		}
	}
	for _, t := range w.talks.all() {
		w.talks.fault("does not end", "%v%s", t, w.weather.during(t.begun, time.Now()))
	}
	_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	for _, n := range w.nodes {
		n.halt()
	}
	<-done
}

func (w *world) close() error {
	for _, n := range w.nodes {
		n.halt()
	}
	w.cancel()
	var errs []error
	for _, n := range w.nodes {
		n.apps.Close()
		n.always.Wait()
		errs = append(errs, n.ns.Close())
	}
	w.path.close()
	return errors.Join(append(errs, w.ca.close())...)
}

// verdict says what was seen, and is an error if any of it must not be.
func (w *world) verdict() error {
	ts := w.talks
	ts.mu.Lock()
	defer ts.mu.Unlock()
	fmt.Printf("stress: %d talks, %d of them in calm weather, %d ok beside a tunnel, %d MB: %v\n",
		ts.number, ts.strong, ts.beside, ts.bytes/megabyte, ts.words)
	for _, r := range w.ledger.none {
		fmt.Printf("stress: of no talk: %v\n", r)
	}
	for kind, n := range ts.faults {
		fmt.Printf("stress: FAULT, %d times: %s\n", n, kind)
	}
	if len(ts.faults) > 0 {
		return fmt.Errorf("there are faults; -seed %d has the same plans and weather", ts.seed)
	}
	if ts.missing > int(w.ledger.omitted) {
		return fmt.Errorf("%d records are missing, and the log says that it omitted %d", ts.missing, w.ledger.omitted)
	}
	if ts.strong == 0 || ts.beside == 0 {
		return errors.New("no talk was in calm weather, or none beside a tunnel, so nothing was shown")
	}
	return nil
}
