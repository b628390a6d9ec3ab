// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/admin"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/collect"
	"github.com/culvert-mesh/culvert/ztunnel/edges"
	"github.com/culvert-mesh/culvert/ztunnel/events"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/verify"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Run is one ztunnel from start to drain. It builds the parts in the order in
// which a connection meets them: steering, who is there, may we, with which
// certificate, carried by whom. It returns when ctx ends and connections are
// drained, or when a part cannot go on.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := netns.SeeNodesCgroups(); err != nil { // first: it executes the program anew
		return err
	}
	lock, err := cfg.begin()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := shortenSlices(); err != nil {
		cfg.Log.Warn("small messages will wait longer behind bulk", logError, err)
	}
	if err := verify.DropRaw(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("put CAP_NET_RAW by: %w", err)
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()

	defer collect.Seldom(hbone.MemoryToSpare())()
	defer collect.GiveBack()()
	if short := hbone.MemoryShort(); short != "" {
		cfg.Log.Warn("little memory for apps and peers that do not read", logWhat, short)
	}

	// Where was it going? The kernel's half, proven on this very kernel
	// before the first pod is enrolled.
	host, err := netns.Open(cfg.HostNetns)
	if err != nil {
		return fmt.Errorf("the node's netns (-host-netns): %w", err)
	}
	defer host.Close()
	datapath, err := cfg.steer(ctx, host)
	if err != nil {
		return err
	}
	defer datapath.Close()

	// Who is there, and may we?
	registry := workload.NewRegistry(cfg.MeshCIDRs)
	registry.Node = cfg.NodeName
	policies, networkPolicies := policy.NewSet(), networkpolicy.NewSet()
	peers, budget := proxy.NewPeers(registry), proxy.NewBudget()
	counts, talk := metrics.New(metrics.Config{Version: version()}), new(edges.Table)
	happened := new(events.Stream)
	td, err := spiffeid.TrustDomainFromString(cfg.TrustDomain)
	if err != nil {
		return err
	}
	objects, err := cfg.source(td, lock.Held(), func(error) { counts.SourceError() })
	if err != nil {
		return err
	}

	abroad, err := cfg.foreign(td, lock.Held(), registry, func(error) { counts.SourceError() })
	if err != nil {
		return err
	}

	// With which certificate?
	var store *certs.Store
	issuer, err := cfg.issuer(td, registry, func(file []*x509.Certificate) ([]*x509.Certificate, uint64) { return store.VouchForCA(file) })
	if err != nil {
		return err
	}
	defer issuer.Close()
	var members *pods.Pods // before the store runs
	store = certs.New(certs.Config{
		TrustDomain: td, Node: cfg.NodeName, Issuer: issuer, TTL: cfg.TTL, Keys: cfg.Keys, Log: cfg.levels.Logger(loglevel.Certs), Remedy: cfg.remedy,
		ClockSkew: cfg.ClockSkew, RootFile: cfg.RootFile, BundleFile: filepath.Join(lock.Held(), cfg.bundleFile()),
		OnRotate:  func(id spiffeid.ID) { members.Retire(id) },
		OnTainted: func(id spiffeid.ID) { members.Move(id) },
		OnBundle:  func() { members.Reprove() },
		Tunnels:   func(key [sha256.Size]byte) int { return members.RestOn(key) },
		DenyFile:  filepath.Join(lock.Held(), denyFile), OnDeny: func() { members.Reprove() }, NodeAt: registry.NodeAt, MaxAge: cfg.MaxTrustAge,
	})

	// Whose connections, and who hears of them?
	access, exporter, err := cfg.access(counts)
	if err != nil {
		return err
	}
	members, err = pods.New(pods.Config{
		Node: cfg.NodeName, Cluster: cfg.Cluster, Host: host.Cookie(), Dir: filepath.Join(lock.Held(), sandboxesDir), Drain: cfg.Drain,
		SameNodeTunnel: cfg.SameNodeTunnel, StdTLSRecords: cfg.StdTLSRecords,
		Datapath: datapath, Registry: registry, Policy: policies, NetworkPolicies: networkPolicies, Origins: cfg.origins(objects), Peers: peers, Budget: budget, Certs: store, Metrics: counts, Edges: talk, Events: happened, Log: cfg.levels.Logger(loglevel.Pods),
		Access: access, GoodOneOf: cfg.AccessSample, AliveEvery: cfg.AccessInterval,
	})
	if err != nil {
		return err
	}

	// What operators and the plugin see.
	keeper := &keeper{
		lock: func() error { return lock.Keep(func(string) error { return nil }) },
		wrong: func(what string) {
			counts.Repaired(what)
			happened.Tell(&events.Event{Kind: events.Repaired, What: what})
			cfg.Log.Error("another hand removed or replaced a part of the state directory, which is restored (-state-dir)", logWhat, what)
		},
	}
	status := &status{cfg: cfg, pods: members, registry: registry, objects: objects, steering: datapath.Sound, others: datapath.Others, state: keeper.Sound, abroad: abroad,
		snapshotFile: filepath.Join(lock.Held(), snapshotFile)}
	status.blocking = &blocking{policies: networkPolicies, registry: registry, node: cfg.NodeName, log: cfg.Log}
	status.publish(counts, datapath, budget)
	reporter, err := status.reporter()
	if err != nil {
		return err
	}
	admin, err := admin.Open(admin.Config{
		MetricsAddress: cfg.MetricsAddress, ReadyAddress: cfg.ReadyAddress, AdminAddress: cfg.AdminAddress,
		Socket: cfg.adminSocket(), Metrics: counts.Handler(), Pending: status.pending, Dumps: status.dumps(),
		Renew: renewer(store, td), Probe: prober(members), Verify: verifier(cfg.HostNetns, members), Quit: quit, Levels: cfg.levels, Events: happened,
	})
	if err != nil {
		return err
	}
	plugins, err := enroll.Listen(cfg.enrollSocket())
	if err != nil {
		return err
	}

	keeper.parts = []kept{
		{"enroll socket", plugins.Keep}, {"admin socket", admin.Keep}, {"records", members.KeepRecords}, {"snapshot", status.keepSnapshot},
	}

	var refusing sync.Mutex
	refuseNobody := func() {
		refusing.Lock()
		defer refusing.Unlock()
		if err := datapath.SetNobody(registry.Nobody()); err != nil {
			cfg.Log.Warn("connects to a service without a ready pod are reset, not refused", logError, err)
		}
	}
	proveContested := contests(registry, members.Reprove)
	sink := func(s source.Snapshot) {
		before := policies.All()
		policies.Replace(s.Policies) // first: see source.Snapshot
		if happened.Heard() && !reflect.DeepEqual(before, s.Policies) {
			happened.Tell(&events.Event{Kind: events.PolicyChanged})
		}
		networkPolicies.Replace(s.NetworkPolicies, s.Mesh.Namespaces)
		registry.Replace(status.stricter(s.Mesh))
		proveContested()
		refuseNobody()
		counts.SourceApplied(s.Version)
		members.Recheck()
		status.snapshot()
	}
	// The parts that connections need while they drain outlive ctx.
	lasting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	part(group, "source of workloads", func() error { return objects.Run(lasting, sink) })
	if abroad != nil {
		part(group, "workloads of other trust domains", func() error {
			return abroad.Run(lasting, func() {
				registry.SetForeign(abroad.Domains())
				refuseNobody()
				members.Reprove() // ends the tunnels to those that are named no more
			})
		})
	}
	part(group, "certificates", func() error { return store.Run(lasting) })
	part(group, "peers", func() error { return peers.Run(lasting) })
	part(group, "admin", func() error { return admin.Run(lasting) })
	part(group, "enroll socket", func() error { return enroll.Serve(ctx, plugins, members) })
	part(group, "Workload API", func() error { return cfg.serveWorkloads(ctx, td, members, store) })
	part(group, "records of open connections", func() error { return members.RunAlive(ctx) })
	if exporter != nil {
		part(group, "export of access records", func() error { return exporter.Run(lasting) })
	}
	part(group, "blocking NetworkPolicies", func() error { return status.blocking.Run(ctx) })
	part(group, "state directory", func() error { return keeper.Run(ctx) })
	if reporter != nil {
		counts.Reports(reporter.Stats)
		part(group, "report", func() error { return reporter.Run(ctx) })
	}
	part(group, "pods", func() error {
		defer stop()
		return members.Run(ctx)
	})
	cfg.Log.Info("ztunnel started", logNode, cfg.NodeName, logVersion, version(), logTrustDomain, cfg.TrustDomain)
	return group.Wait()
}

// steer loads the kernel's half, and proves that it would steer this node's pods.
func (c Config) steer(ctx context.Context, host *netns.NS) (*redirect.Datapath, error) {
	datapath, err := redirect.Load(redirect.Options{
		BPFFS: c.BPFFS, Cgroup: c.Cgroup, KubeletCgroup: c.KubeletCgroup, HostNetns: host.Cookie(),
		ExcludeCIDRs: c.ExcludeCIDRs, ExcludePorts: c.ExcludePorts, StandIns: c.StandIns,
	})
	if err != nil {
		return nil, fmt.Errorf("load steering: %w", err)
	}
	if err := datapath.AboveNode(); err != nil {
		datapath.Close()
		return nil, fmt.Errorf("the hooks would not see this node's pods: %w", err)
	}
	if err := datapath.SelfTest(ctx); err != nil {
		datapath.Close()
		return nil, fmt.Errorf("self-test of steering on this kernel: %w", err)
	}
	return datapath, nil
}

// part runs one of Run's parts. The end of a context is no failure of a part.
func part(group *errgroup.Group, name string, run func() error) {
	group.Go(func() error {
		if err := run(); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}
