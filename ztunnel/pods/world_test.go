// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

var domain = spiffeid.RequireTrustDomainFromString("cluster.local")

// world is a node with real steering and a registry that the test fills, but
// without a CA. This process is below its cgroup, so that sockets it makes in
// a pod's netns are steered.
type world struct {
	t      *testing.T
	cfg    Config
	cgroup string
	opts   redirect.Options
	issuer certs.Issuer // nobody

	workloads []workload.Workload
	stored    bool               // the registry has them of a state file
	sandboxes map[string]sandbox // what the test made, by UID
	wires     int                // devices that lead out of them

	*node
}

// node is one ztunnel of the world; a restart makes another.
type node struct {
	datapath *redirect.Datapath
	registry *workload.Registry
	pods     *Pods
	stop     func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	env.Need(t, env.BPF, env.Cgroup2, env.Netns)
	w := &world{t: t, cgroup: env.NewCgroup(t), issuer: nobody{}, sandboxes: map[string]sandbox{}}
	if err := os.WriteFile(filepath.Join(w.cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
	w.opts = redirect.Options{BPFFS: filepath.Join(env.BPFFS(t), "culvert"), Cgroup: w.cgroup}
	w.cfg = Config{Node: "here", Dir: filepath.Join(t.TempDir(), "sandboxes"), Drain: time.Millisecond,
		Log: slog.New(slog.NewTextHandler(logTo{t}, nil))}
	t.Cleanup(func() {
		if w.node != nil {
			w.kill()
		}
		d, err := redirect.Load(w.opts)
		if err == nil {
			err = errors.Join(d.Unpin(), d.Close())
		}
		if err != nil {
			t.Error(err)
		}
	})
	return w
}

// logTo is the test's log.
type logTo struct{ t *testing.T }

func (l logTo) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}

// load makes a ztunnel that does not run yet.
func (w *world) load() {
	w.t.Helper()
	d, err := redirect.Load(w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{datapath: d, registry: workload.NewRegistry([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})}
	host, err := netns.Open("/proc/self/ns/net")
	if err != nil {
		w.t.Fatal(err)
	}
	defer host.Close()
	cfg := w.cfg
	cfg.Host, cfg.Datapath, cfg.Registry = host.Cookie(), d, n.registry
	cfg.Budget = proxy.NewBudget()
	cfg.Policy, cfg.Peers, cfg.Metrics = policy.NewSet(), proxy.NewPeers(n.registry), metrics.New(metrics.Config{})
	cfg.Certs = certs.New(certs.Config{TrustDomain: domain, Issuer: w.issuer, Log: w.cfg.Log, OnRotate: func(id spiffeid.ID) { n.pods.Retire(id) }})
	if n.pods, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	cfg.Metrics.Pods(n.pods.Enrollment)
	n.stop = func() {
		n.pods.leaving.Wait()  // it logs
		n.pods.workers.Close() // as Run does
		d.Close()
	}
	w.node = n
	w.replace()
}

// nobody is a CA that is away.
type nobody struct{}

func (nobody) Issue(context.Context, spiffeid.ID, []byte, time.Duration) (certs.Issued, error) {
	return certs.Issued{}, errors.New("away")
}

// start makes a ztunnel and runs its pods until kill.
func (w *world) start() {
	w.t.Helper()
	w.load()
	n := w.node
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.pods.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		n.datapath.Close()
	}
	select {
	case <-n.pods.loaded:
	case err := <-done:
		done <- err
		w.t.Fatal("Run ended")
	}
}

// kill leaves what a ztunnel that ended leaves: its pins and records.
func (w *world) kill() {
	w.t.Helper()
	w.node.stop()
	w.node = nil
}

// replace gives the registry what the test has.
func (w *world) replace() {
	w.registry.Replace(workload.Mesh{
		Workloads:  workload.Pack(w.workloads...),
		Namespaces: map[string]workload.Namespace{"shop": {}, "closed": {Meshed: true}},
		Stored:     w.stored,
	})
}

// label changes whether labels put a pod into the mesh.
func (w *world) label(uid string, meshed bool) {
	w.t.Helper()
	for i := range w.workloads {
		if w.workloads[i].UID == uid {
			w.workloads[i].Meshed = meshed
		}
	}
	if w.node != nil {
		w.replace()
	}
}

// newUID returns one that no other process of this machine searches for.
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// pod makes a netns with an address on lo, and tells the registry of its pod.
// Nothing leads out of it: what is not steered is unreachable.
func (w *world) pod(uid string, addr string, meshed bool) enroll.Request {
	w.t.Helper()
	return w.podIn(env.NewNetns(w.t), uid, addr, meshed)
}

// podIn makes it of a netns that there is.
func (w *world) podIn(path, uid, addr string, meshed bool) enroll.Request {
	w.t.Helper()
	ip := netip.MustParseAddr(addr)
	w.addAddr(path, ip)
	ns, err := netns.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ns.Close()
	id, err := workload.Identity(domain, "shop", uid)
	if err != nil {
		w.t.Fatal(err)
	}
	w.workloads = append(w.workloads, workload.Workload{UID: uid, Namespace: "shop", Name: uid, Node: "here",
		ServiceAccount: uid, ID: id, Addrs: []netip.Addr{ip}, Meshed: meshed})
	w.sandboxes[uid] = sandbox{Netns: path, Cookie: ns.Cookie()}
	if w.node != nil {
		w.replace()
	}
	return enroll.Request{Network: "net", ContainerID: "c-" + uid, IfName: "eth0", Netns: path,
		PodNamespace: "shop", PodName: uid, PodUID: uid, IPs: enroll.Addrs{ip}}
}

func (w *world) addAddr(path string, ip netip.Addr) {
	w.t.Helper()
	if err := env.InNetns(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(ip.AsSlice())})
	}); err != nil {
		w.t.Fatal(err)
	}
}

// add is a CNI ADD that must be answered so.
func (w *world) add(req enroll.Request, want enroll.Verdict) enroll.Reply {
	w.t.Helper()
	reply, err := w.pods.Add(w.t.Context(), req)
	if err != nil || reply.Verdict != want {
		w.t.Fatalf("ADD of %s: %+v, %v; want %s", req.PodName, reply, err, want)
	}
	return reply
}

func (w *world) del(req enroll.Request) {
	w.t.Helper()
	if err := w.pods.Del(w.t.Context(), req); err != nil {
		w.t.Error(err)
	}
}

// forget ends a sandbox as if its netns were gone.
func (w *world) forget(pod *pod) {
	w.t.Helper()
	pod.mu.Lock()
	defer pod.mu.Unlock()
	if err := w.pods.forget(pod); err != nil {
		w.t.Error(err)
	}
}

// destroy takes away what leads to a pod's netns; with the last process in it,
// it is gone.
func (w *world) destroy(uid string) {
	w.t.Helper()
	if err := unix.Unmount(w.sandboxes[uid].Netns, unix.MNT_DETACH); err != nil {
		w.t.Fatal(err)
	}
}

// leavesNoTrace waits until nothing is left of a pod.
func (w *world) leavesNoTrace(uid string) {
	w.t.Helper()
	cookie := w.sandboxes[uid].Cookie
	w.eventually("nothing is left of "+uid, func() bool {
		_, known := w.pods.byCookie(cookie)
		inbound, outbound := w.datapath.Steered(cookie)
		_, err := os.Stat(w.pods.files.path(cookie))
		return !known && !inbound && !outbound && errors.Is(err, os.ErrNotExist)
	})
}

// What becomes of a connection that a pod opens.
const (
	carried  = "carried"  // ztunnel takes it
	refused  = "refused"  // it is steered, and nobody listens
	released = "released" // it is not steered
)

// connects says what becomes of a connection of the pod.
func (w *world) connects(uid string) string {
	w.t.Helper()
	return w.connectsTo(uid, netip.MustParseAddrPort("10.9.9.9:80"))
}

func (w *world) connectsTo(uid string, to netip.AddrPort) string {
	w.t.Helper()
	ns, err := netns.Open(w.sandboxes[uid].Netns)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	conn, err := ns.Dial(ctx, to, nil)
	switch {
	case err == nil:
		conn.SetLinger(0)
		conn.Close()
		return carried
	case errors.Is(err, unix.ECONNRESET): // ztunnel was faster: nobody has this address
		return carried
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case errors.Is(err, unix.ENETUNREACH):
		return released
	}
	return fmt.Sprint(err)
}

// want asserts what becomes of a pod's connections.
func (w *world) want(uid, what string) {
	w.t.Helper()
	if got := w.connects(uid); got != what {
		w.t.Errorf("connections of %s are %s, want %s", uid, got, what)
	}
}

// eventually waits until done, for at most ten seconds.
func (w *world) eventually(what string, done func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute) // a CA that refused is asked again after half of that
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}
