// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	addr   = netip.MustParseAddr
	ap     = netip.MustParseAddrPort
	prefix = netip.MustParsePrefix
	client = netip.MustParseAddr("10.1.0.99")
)

func pod(name, uid string, addrs ...string) Workload {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	id, err := Identity(td, "shop", name)
	if err != nil {
		panic(err)
	}
	w := Workload{UID: uid, Namespace: "shop", Name: name, Node: "node-1", ServiceAccount: name, ID: id, Meshed: true, Ready: true}
	for _, a := range addrs {
		w.Addrs = append(w.Addrs, addr(a))
	}
	return w
}

func ready(addrs ...string) (out []Endpoint) {
	for _, a := range addrs {
		out = append(out, Endpoint{Addr: ap(a)})
	}
	return out
}

func registry(t *testing.T, mesh Mesh) *Registry {
	t.Helper()
	r := NewRegistry([]netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/16")})
	r.Replace(mesh)
	return r
}

func resolve(t *testing.T, r *Registry, dst string) Destination {
	t.Helper()
	d, err := r.Resolve(client, ap(dst))
	if err != nil {
		t.Fatalf("Resolve(%s): %v", dst, err)
	}
	return d
}

func refused(t *testing.T, r *Registry, dst string, want error, says string) {
	t.Helper()
	d, err := r.Resolve(client, ap(dst))
	if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
		t.Errorf("Resolve(%s) = %+v, %v; want %v that says %q", dst, d, err, want, says)
	}
}

func TestAPodIsReachedAtItsOwnAddress(t *testing.T) {
	web := pod("web", "u1", "10.1.0.2", "fd00::2")
	r := registry(t, Mesh{Workloads: Pack(web)})
	for _, dst := range []string{"10.1.0.2:8080", "[fd00::2]:8080", "[::ffff:10.1.0.2]:8080"} {
		d := resolve(t, r, dst)
		want := netip.AddrPortFrom(ap(dst).Addr().Unmap(), 8080)
		if d.Peer.UID != "u1" || d.Target != want || d.Service != nil {
			t.Errorf("Resolve(%s) = %v at %v, service %v", dst, d.Peer, d.Target, d.Service)
		}
		if got := d.Peer.HBONE(d.Target.Addr()); got != netip.AddrPortFrom(want.Addr(), 15008) {
			t.Errorf("tunnels to %s end at %v", dst, got)
		}
	}
	if d := resolve(t, r, "10.1.0.2:8080"); d.Peer.ID.String() != "spiffe://cluster.local/ns/shop/sa/web" {
		t.Errorf("identity %v", d.Peer.ID)
	}
}

func TestAWorkloadOutsideTheMeshHasNoTunnelAddress(t *testing.T) {
	w := pod("web", "u1", "10.1.0.2")
	w.Meshed = false
	if got := w.HBONE(w.Addrs[0]); got.IsValid() {
		t.Errorf("tunnels end at %v", got)
	}
}

func TestUnknownAddressesAreRefusedInsideTheMeshAndPassOutside(t *testing.T) {
	r := registry(t, Mesh{Nodes: []Node{{Addrs: []netip.Addr{addr("10.200.0.1")}}}})
	refused(t, r, "10.9.9.9:80", ErrUnknownPeer, "10.9.9.9:80")
	refused(t, r, "[fd00::9]:80", ErrUnknownPeer, "[fd00::9]:80")
	refused(t, r, "[::ffff:10.9.9.9]:80", ErrUnknownPeer, "10.9.9.9:80")
	for _, dst := range []string{"192.0.2.1:443", "[2001:db8::1]:443", "10.200.0.1:30080"} {
		if d := resolve(t, r, dst); d.Peer.UID != "" || d.Target != ap(dst) || d.Service != nil {
			t.Errorf("Resolve(%s) = %+v, want a destination outside the mesh", dst, d)
		}
	}
}

func TestMeshCIDRsMayBeWrittenAsMappedPrefixes(t *testing.T) {
	r := NewRegistry([]netip.Prefix{prefix("::ffff:10.0.0.0/104"), prefix("10.64.3.4/10")})
	r.Replace(Mesh{})
	refused(t, r, "10.0.0.1:80", ErrUnknownPeer, "")
	refused(t, r, "10.65.0.1:80", ErrUnknownPeer, "")
}

func TestAddressesThatWereOnceTheMeshsAreNeverTakenForTheWorldOutside(t *testing.T) {
	r := NewRegistry(nil)
	r.Replace(Mesh{CIDRs: []netip.Prefix{prefix("192.0.2.0/24"), prefix("198.51.100.0/25")}})
	r.Replace(Mesh{CIDRs: []netip.Prefix{prefix("198.51.100.0/24")}})
	for _, dst := range []string{"192.0.2.7:80", "198.51.100.7:80", "198.51.100.200:80"} {
		refused(t, r, dst, ErrUnknownPeer, "no pod or service")
	}
	if d := resolve(t, r, "203.0.113.7:80"); d.Target != ap("203.0.113.7:80") {
		t.Errorf("outside: %+v", d)
	}
	if got := len(r.All().CIDRs); got != 2 {
		t.Errorf("%d CIDRs, want the one that holds another only once: %v", got, r.All().CIDRs)
	}
}

func TestBeforeTheFirstSnapshotEverythingIsRefused(t *testing.T) {
	r := NewRegistry(nil)
	refused(t, r, "192.0.2.1:443", ErrUnknownPeer, "not known yet")
	if r.Synced() {
		t.Error("synced without a snapshot")
	}
	if _, ok := r.ByUID(""); ok {
		t.Error("the empty UID is somebody's")
	}
	r.Replace(Mesh{})
	if !r.Synced() {
		t.Error("not synced after a snapshot")
	}
	resolve(t, r, "192.0.2.1:443")
}

// shop is a service of two families in front of two pods.
func shop() Mesh {
	return Mesh{
		Workloads: Pack(
			pod("a", "ua", "10.1.0.2", "fd00::2"),
			pod("b", "ub", "10.1.0.3", "fd00::3"),
		),
		Services: []Service{{
			Namespace: "shop", Name: "web", VIPs: []netip.Addr{addr("10.96.0.5"), addr("fd00:96::5")},
			LoadBalancerIPs: []netip.Addr{addr("203.0.113.5")},
			Ports: []ServicePort{
				{Name: "http", Port: 80, Endpoints: ready("10.1.0.2:8080", "10.1.0.3:8081", "[fd00::2]:8080", "[fd00::3]:8081")},
				{Name: "admin", Port: 81},
			},
		}},
	}
}

func TestAServiceLeadsToEachOfItsEndpointsOfTheFamilyThatWasAsked(t *testing.T) {
	r := registry(t, shop())
	for dst, want := range map[string][]string{
		"10.96.0.5:80":    {"ua 10.1.0.2:8080", "ub 10.1.0.3:8081"},
		"[fd00:96::5]:80": {"ua [fd00::2]:8080", "ub [fd00::3]:8081"},
		"203.0.113.5:80":  {"ua 10.1.0.2:8080", "ub 10.1.0.3:8081"},
	} {
		seen := map[string]int{}
		for range 400 {
			d := resolve(t, r, dst)
			seen[fmt.Sprint(d.Peer.UID, " ", d.Target)]++
			if d.Service == nil || d.Service.Hostname() != "web.shop.svc.cluster.local" {
				t.Fatalf("Resolve(%s) is of service %+v", dst, d.Service)
			}
		}
		for _, w := range want {
			// 400 tosses of a coin: 100 is ten standard deviations away.
			if seen[w] < 100 {
				t.Errorf("Resolve(%s): %s in %d of 400", dst, w, seen[w])
			}
		}
		if len(seen) != len(want) {
			t.Errorf("Resolve(%s) led to %v, want only %v", dst, seen, want)
		}
	}
}

func TestAServiceWithoutSuchAPortOrWithoutReadyPodsIsRefused(t *testing.T) {
	r := registry(t, shop())
	refused(t, r, "10.96.0.5:8080", ErrNoEndpoint, "service shop/web has no TCP port 8080")
	refused(t, r, "10.96.0.5:81", ErrNoEndpoint, "no ready pod behind 10.96.0.5:81 of service shop/web")
	refused(t, r, "203.0.113.5:82", ErrNoEndpoint, "no TCP port 82")
}

func TestEndpointsThatNobodyHasDrawNoConnections(t *testing.T) {
	mesh := shop()
	gone := pod("a", "ua", "10.1.0.2", "fd00::2")
	gone.Terminated = true
	mesh.Workloads[0] = Pack(gone)[0]
	r := registry(t, mesh)
	for range 50 {
		if d := resolve(t, r, "10.96.0.5:80"); d.Peer.UID != "ub" {
			t.Fatalf("led to %v at %v", d.Peer, d.Target)
		}
	}
	r.Replace(Mesh{Services: mesh.Services})
	refused(t, r, "10.96.0.5:80", ErrNoEndpoint, "no ready pod")
}

func TestEndpointsOutsideTheMeshPassThrough(t *testing.T) {
	node := pod("kube-apiserver", "un", "10.200.0.1")
	node.HostNetwork, node.Meshed = true, false
	r := registry(t, Mesh{
		Workloads: Pack(node),
		Services: []Service{
			{Namespace: "default", Name: "kubernetes", VIPs: []netip.Addr{addr("10.96.0.1")},
				Ports: []ServicePort{{Port: 443, Endpoints: ready("10.200.0.1:6443")}}},
			{Namespace: "shop", Name: "db", VIPs: []netip.Addr{addr("10.96.0.2")},
				Ports: []ServicePort{{Port: 5432, Endpoints: ready("192.0.2.7:5432")}}},
		},
	})
	for dst, target := range map[string]string{"10.96.0.1:443": "10.200.0.1:6443", "10.96.0.2:5432": "192.0.2.7:5432"} {
		if d := resolve(t, r, dst); d.Peer.UID != "" || d.Target != ap(target) || d.Service == nil {
			t.Errorf("Resolve(%s) = %+v", dst, d)
		}
	}
}

func TestAPodInTheNodesNetworkHasNoAddressOfItsOwn(t *testing.T) {
	node := pod("agent", "u1", "10.200.0.1")
	node.HostNetwork, node.Meshed = true, false
	r := registry(t, Mesh{Workloads: Pack(node)})
	if w, ok := r.ByAddr(addr("10.200.0.1")); ok {
		t.Errorf("the node's address is %v's", w)
	}
	if d := resolve(t, r, "10.200.0.1:10250"); d.Peer.UID != "" {
		t.Errorf("the node's address leads to %v", d.Peer)
	}
	if got := r.Local("node-1"); len(got) != 0 {
		t.Errorf("local pods %v", got)
	}
	if _, ok := r.ByUID("u1"); !ok {
		t.Error("not known by UID")
	}
}

func TestATerminatedPodGivesUpItsAddressAndItsNode(t *testing.T) {
	done := pod("job", "u1", "10.1.0.2")
	done.Terminated = true
	r := registry(t, Mesh{Workloads: Pack(done)})
	if _, ok := r.ByAddr(addr("10.1.0.2")); ok {
		t.Error("still has its address")
	}
	refused(t, r, "10.1.0.2:80", ErrUnknownPeer, "")
	if got := r.Local("node-1"); len(got) != 0 {
		t.Errorf("local pods %v", got)
	}
	if _, ok := r.ByUID("u1"); !ok {
		t.Error("not known by UID")
	}
}

func TestTheNewestPodHasADisputedAddress(t *testing.T) {
	old, young := pod("old", "u1", "10.1.0.2"), pod("young", "u2", "10.1.0.2")
	young.Created = time.Unix(100, 0)
	old.Created = time.Unix(99, 0)
	same := pod("same-age", "u3", "10.1.0.2") // after "young" by name
	same.Namespace, same.Created = "zoo", young.Created
	for _, order := range [][]Workload{{old, young, same}, {same, young, old}, {young, old, same}} {
		r := registry(t, Mesh{Workloads: Pack(order...)})
		if w, _ := r.ByAddr(addr("10.1.0.2")); w.UID != "u2" {
			t.Errorf("in order %v the address is %v's", order, w)
		}
	}
}

func TestAPodOutsideTheMeshNeverTakesAnAddressFromOneInIt(t *testing.T) {
	victim, thief := pod("victim", "u1", "10.1.0.2"), pod("thief", "u2", "10.1.0.2")
	thief.Created, thief.Meshed = time.Unix(100, 0), false
	for _, order := range [][]Workload{{victim, thief}, {thief, victim}} {
		if d := resolve(t, registry(t, Mesh{Workloads: Pack(order...)}), "10.1.0.2:80"); d.Peer.UID != "u1" {
			t.Errorf("in order %v the address is %v's: connections would leave in plaintext", order, d.Peer)
		}
	}
}

// A Namespace object that is gone is not a label that says no.
func TestAPodWhoseNamespaceVanishedStaysWhatItWas(t *testing.T) {
	in, out := pod("in", "u1", "10.1.0.2"), pod("out", "u2", "10.1.0.3")
	out.Meshed = false
	r := registry(t, Mesh{Workloads: Pack(in, out)})
	undecided := func(w Workload) Workload {
		w.Meshed, w.Undecided = false, true
		return w
	}
	for range 2 { // and again
		r.Replace(Mesh{Workloads: Pack(undecided(in), undecided(out), undecided(pod("new", "u3", "10.1.0.4")))})
		if w, _ := r.ByUID("u1"); !w.Meshed || w.Undecided {
			t.Errorf("a pod of the mesh became %+v", w)
		}
		if w, _ := r.ByUID("u2"); w.Meshed || w.Undecided {
			t.Errorf("a pod outside became %+v", w)
		}
		if w, _ := r.ByUID("u3"); w.Meshed || !w.Undecided {
			t.Errorf("a new pod became %+v", w)
		}
	}
	resolve(t, r, "10.1.0.3:80")
	refused(t, r, "10.1.0.4:80", ErrUnknownPeer, "pod shop/new") // plaintext would be a guess
	r.Replace(Mesh{Workloads: Pack(out)})
	r.Replace(Mesh{Workloads: Pack(undecided(in), out)})
	if w, _ := r.ByUID("u1"); !w.Undecided {
		t.Errorf("a pod that was away is remembered: %+v", w)
	}
}

func TestThatAStoredSnapshotHadAPodOutsideTheMeshIsNotKept(t *testing.T) {
	in, out := pod("in", "u1", "10.1.0.2"), pod("out", "u2", "10.1.0.3")
	out.Meshed = false
	r := registry(t, Mesh{Workloads: Pack(in, out), Stored: true})
	resolve(t, r, "10.1.0.3:80")
	in.Meshed, in.Undecided, out.Undecided = false, true, true
	r.Replace(Mesh{Workloads: Pack(in, out)})
	if w, _ := r.ByUID("u1"); !w.Meshed {
		t.Errorf("a pod of the mesh became %+v", w)
	}
	refused(t, r, "10.1.0.3:80", ErrUnknownPeer, "pod shop/out")
}

func TestAServiceLeadsToNoPodOfWhichNobodySaysWhetherItIsInTheMesh(t *testing.T) {
	mesh := shop()
	for i := range mesh.Workloads {
		mesh.Workloads[i].Meshed, mesh.Workloads[i].Undecided = false, true
	}
	refused(t, registry(t, mesh), "10.96.0.5:80", ErrUnknownPeer, "is not known")
}

// The UID of a static pod is what an annotation claims.
func TestAClaimedUIDNeverBeatsAnother(t *testing.T) {
	old, young := time.Unix(1000, 0), time.Unix(2000, 0)
	made := func(name string, static bool, at time.Time) Workload {
		w := pod(name, "u1")
		w.Static, w.Created = static, at
		return w
	}
	for _, c := range []struct {
		what string
		pods []Workload
		want time.Time
		name string
	}{
		{"an object's own UID", []Workload{made("real", false, young), made("thief", true, old)}, young, "real"},
		{"the older claim", []Workload{made("real", true, old), made("thief", true, young)}, old, "real"},
		{"the mirror that was made anew", []Workload{made("real", true, old), made("real", true, young)}, young, "real"},
	} {
		for range 2 {
			w, _ := registry(t, Mesh{Workloads: Pack(c.pods...)}).ByUID("u1")
			if w.Name != c.name || !w.Created.Equal(c.want) {
				t.Errorf("%s: the UID is %v's, created %v", c.what, w, w.Created)
			}
			c.pods[0], c.pods[1] = c.pods[1], c.pods[0]
		}
	}
}

func TestTheOldestServiceKeepsADisputedAddress(t *testing.T) {
	at := func(name string, sec int64) Service {
		return Service{Namespace: "shop", Name: name, Created: time.Unix(sec, 0), VIPs: []netip.Addr{addr("10.96.0.5")},
			Ports: []ServicePort{{Port: 80, Endpoints: ready("192.0.2.1:80")}}}
	}
	for _, order := range [][]Service{{at("first", 1), at("thief", 2)}, {at("thief", 2), at("first", 1)}} {
		if d := resolve(t, registry(t, Mesh{Services: order}), "10.96.0.5:80"); d.Service.Name != "first" {
			t.Errorf("the address is %s's", d.Service.Name)
		}
	}
}

func TestALoadBalancerAddressNeverHidesAPodOrAnotherServicesClusterIP(t *testing.T) {
	mesh := shop()
	mesh.Services = append(mesh.Services, Service{Namespace: "evil", Name: "thief",
		LoadBalancerIPs: []netip.Addr{addr("10.1.0.2"), addr("10.96.0.5")},
		Ports:           []ServicePort{{Port: 80, Endpoints: ready("192.0.2.1:80")}}})
	r := registry(t, mesh)
	if d := resolve(t, r, "10.1.0.2:80"); d.Peer.UID != "ua" {
		t.Errorf("the pod's address leads to %+v", d)
	}
	if d := resolve(t, r, "10.96.0.5:80"); d.Service.Name != "web" {
		t.Errorf("the cluster IP leads to %+v", d)
	}
}

func TestLocalPodsAreSortedAndOnlyTheNodesOwn(t *testing.T) {
	other := pod("other", "u9", "10.2.0.2")
	other.Node = "node-2"
	r := registry(t, Mesh{Workloads: Pack(pod("b", "u2", "10.1.0.3"), other, pod("a", "u1", "10.1.0.2"))})
	var got []string
	for _, w := range r.Local("node-1") {
		got = append(got, w.String())
	}
	if want := []string{"shop/a", "shop/b"}; !cmp.Equal(got, want) {
		t.Errorf("local pods %v, want %v", got, want)
	}
	if r.Local("node-1")[0].Name = "changed"; r.Local("node-1")[0].Name != "a" {
		t.Error("a caller's write reached the registry")
	}
	if len(r.Local("")) != 0 {
		t.Error("unscheduled pods are local somewhere")
	}
}

func TestPodsThatLabelsWantInVainAreTheNodesOwnAndLive(t *testing.T) {
	why := func(name string, change func(*Workload)) Workload {
		w := pod(name, "uid-"+name, "10.1.0.1")
		w.Meshed, w.Unsteerable = false, "hostNetwork"
		change(&w)
		return w
	}
	r := NewRegistry(nil)
	r.Node = "node-1"
	r.Replace(Mesh{Workloads: Pack(
		why("host", func(w *Workload) { w.HostNetwork = true }),
		why("ended", func(w *Workload) { w.Terminated = true }),
		why("elsewhere", func(w *Workload) { w.Node = "node-2" }),
		pod("steered", "uid-steered", "10.1.0.2"),
	)})
	if got := r.Unsteerable(); len(got) != 1 || got[0].Name != "host" {
		t.Errorf("%v", got)
	}
}

func TestNamespacesAndTheWholeSnapshotCanBeRead(t *testing.T) {
	mesh := shop()
	mesh.Namespaces = map[string]Namespace{"shop": {Meshed: true, Labels: map[string]string{"a": "b"}}}
	r := registry(t, mesh)
	if ns, ok := r.Namespace("shop"); !ok || !ns.Meshed {
		t.Errorf("namespace shop: %+v, %v", ns, ok)
	}
	if _, ok := r.Namespace("unheard-of"); ok {
		t.Error("a namespace that is not there is known")
	}
	if diff := cmp.Diff(mesh, r.All(), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, spiffeid.ID{})); diff != "" {
		t.Error(diff)
	}
}

func TestASnapshotWakesThoseWhoWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(nil)
		found := make(chan Workload)
		go func() { // as CNI ADD waits for its pod
			for {
				changed := r.Changed()
				if w, ok := r.ByUID("u1"); ok {
					found <- w
					return
				}
				<-changed
			}
		}()
		r.Replace(Mesh{})
		synctest.Wait()
		r.Replace(Mesh{Workloads: Pack(pod("web", "u1"))})
		if w := <-found; w.Name != "web" {
			t.Errorf("found %v", w)
		}
	})
}

func TestWaitSyncedEndsWithTheFirstSnapshotOrTheContext(t *testing.T) {
	r := NewRegistry(nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("it is over")
	cancel(over)
	if err := r.WaitSynced(ctx); !errors.Is(err, over) {
		t.Errorf("WaitSynced of a cold registry: %v", err)
	}
	r.Replace(Mesh{})
	if err := r.WaitSynced(t.Context()); err != nil {
		t.Errorf("WaitSynced: %v", err)
	}
}

func TestReadersSeeOneSnapshotOrTheOther(t *testing.T) {
	r := registry(t, shop())
	other := shop()
	for i := range other.Workloads {
		other.Workloads[i].UID += "'"
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if _, err := r.Resolve(client, ap("10.96.0.5:80")); err != nil {
					t.Errorf("in between: %v", err)
				}
				r.Local("node-1")
				r.Changed()
			}
		})
	}
	wg.Go(func() {
		for i := range 100 {
			r.Replace([]Mesh{shop(), other}[i%2])
		}
	})
	wg.Wait()
}

func BenchmarkResolveService(b *testing.B) {
	mesh := Mesh{}
	svc := Service{Namespace: "shop", Name: "web", VIPs: []netip.Addr{addr("10.96.0.5")}, Ports: []ServicePort{{Port: 80}}}
	for i := range 10000 {
		w := pod("web", fmt.Sprint(i))
		w.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}
		mesh.Workloads = append(mesh.Workloads, Pack(w)...)
		svc.Ports[0].Endpoints = append(svc.Ports[0].Endpoints, Endpoint{Addr: netip.AddrPortFrom(w.Addrs[0], 80)})
	}
	mesh.Services = []Service{svc}
	r := NewRegistry([]netip.Prefix{prefix("10.0.0.0/8")})
	r.Replace(mesh)
	dst := ap("10.96.0.5:80")
	for b.Loop() {
		if _, err := r.Resolve(client, dst); err != nil {
			b.Fatal(err)
		}
	}
}
