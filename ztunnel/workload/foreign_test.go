// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Addresses of the trust domain other.example, and of nobody.
const (
	abroadCIDR = "172.20.0.0/16"
	abroadWeb  = "172.20.0.7"
	abroadNone = "172.20.0.8"
)

var abroadID = spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")

func otherDomain(workloads ...ForeignWorkload) []ForeignDomain {
	return []ForeignDomain{{
		TrustDomain: abroadID.TrustDomain(), CIDRs: []netip.Prefix{prefix(abroadCIDR), prefix("fd20::/64")}, Workloads: workloads,
	}}
}

// refuses wants an address refused as that of an unknown peer, and why.
func refuses(t *testing.T, r *Registry, when, dst, says string) {
	t.Helper()
	d, err := r.Resolve(client, ap(dst))
	if !errors.Is(err, ErrUnknownPeer) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %+v, %v; want it refused: %s", when, d, err, says)
	}
}

// An address in another trust domain leads to the workload that is named there, by its whole
// SPIFFE ID, and if none is it leads nowhere: plaintext never goes there.
func TestAnAddressOfAnotherTrustDomainIsThatOfAWorkloadOrRefused(t *testing.T) {
	behind := Service{Namespace: "shop", Name: "abroad", VIPs: []netip.Addr{addr("10.96.0.9")},
		Ports: []ServicePort{{Port: 80, Endpoints: ready(abroadWeb + ":8080")}, {Port: 81, Endpoints: ready(abroadNone + ":8080")}}}
	r := registry(t, Mesh{Workloads: Pack(pod("web", "u1", "10.1.0.1")), Services: []Service{behind}})
	if d := resolve(t, r, abroadWeb+":80"); d.Peer.Meshed {
		t.Errorf("before anything is named: %+v", d)
	}
	r.SetForeign(otherDomain(ForeignWorkload{abroadID, []netip.Addr{addr(abroadWeb), addr("fd20::7")}}))
	for dst, target := range map[string]string{
		abroadWeb + ":80": abroadWeb + ":80", "[::ffff:" + abroadWeb + "]:80": abroadWeb + ":80", "[fd20::7]:80": "[fd20::7]:80", "10.96.0.9:80": abroadWeb + ":8080",
	} {
		d := resolve(t, r, dst)
		if d.Peer.ID != abroadID || !d.Peer.IsForeign() || d.Target != ap(target) || d.Peer.HBONE(d.Target.Addr()).Port() != HBONEPort {
			t.Errorf("%s: %+v", dst, d)
		}
		if d.Peer.Namespace != "" || d.Peer.ServiceAccount != "" || d.Peer.Labels != "" {
			t.Errorf("%s has names by which it may be taken for a pod of ours: %+v", dst, d.Peer)
		}
	}
	const unnamed = "is of the trust domain other.example, and -foreign-workloads names no workload there"
	refuses(t, r, "nobody is named there", abroadNone+":80", unnamed)
	refuses(t, r, "nobody is named behind a Service", "10.96.0.9:81", unnamed)
	if d := resolve(t, r, "172.21.0.1:80"); d.Peer.Meshed {
		t.Errorf("outside: %+v", d)
	}

	// What goes from the list is not the world outside.
	r.SetForeign(otherDomain())
	refuses(t, r, "the workload is named no more", abroadWeb+":80", unnamed)
	r.SetForeign([]ForeignDomain{})
	refuses(t, r, "the domain is named no more", abroadWeb+":80", unnamed)
	refuses(t, r, "the domain is named no more, by a Service", "10.96.0.9:80", unnamed)
}

// Whoever may write a Service in some namespace does not get what is meant for a workload of
// another trust domain, nor keeps it from being reached.
func TestNoServiceTakesAnAddressOfAnotherTrustDomain(t *testing.T) {
	taker := Service{Namespace: "shop", Name: "taker", ExternalIPs: []netip.Addr{addr(abroadWeb)}, LoadBalancerIPs: []netip.Addr{addr("fd20::7")},
		Ports: []ServicePort{{Port: 80, Endpoints: ready("10.1.0.1:8080", "[fd00::1]:8080")}, {Port: 81}}}
	r := registry(t, Mesh{Workloads: Pack(pod("web", "u1", "10.1.0.1", "fd00::1")), Services: []Service{taker}})
	if len(r.Nobody()) != 2 || resolve(t, r, abroadWeb+":80").Peer.Name != "web" {
		t.Fatal("the Service does not take the address of nobody")
	}
	r.SetForeign(otherDomain(ForeignWorkload{abroadID, []netip.Addr{addr(abroadWeb), addr("fd20::7")}}))
	for _, dst := range []string{abroadWeb + ":80", abroadWeb + ":81", "[fd20::7]:80", "[fd20::7]:81"} {
		if d := resolve(t, r, dst); d.Peer.ID != abroadID || d.Service != nil {
			t.Errorf("%s: %+v", dst, d)
		}
	}
	if nobody := r.Nobody(); len(nobody) != 0 {
		t.Errorf("refused at once: %v", nobody)
	}
}

// A list of another trust domain changes nothing of this mesh: who is in it is reached as its
// own, and where both claim an address nothing is guessed.
func TestAnotherTrustDomainTakesNoAddressOfThisMesh(t *testing.T) {
	out := pod("out", "u2", "172.20.0.3")
	out.Meshed = false
	in := pod("in", "u3", "172.20.0.4")
	legacy := pod("legacy", "u4", "10.1.0.3")
	legacy.Meshed = false
	behind := Service{Namespace: "shop", Name: "web", VIPs: []netip.Addr{addr("10.96.0.9")}, Ports: []ServicePort{{Port: 80, Endpoints: ready("10.1.0.1:8080")}}}
	r := registry(t, Mesh{Workloads: Pack(pod("web", "u1", "10.1.0.1"), out, in, legacy), Services: []Service{behind}, Nodes: []Node{{Name: "n", Addrs: []netip.Addr{addr("172.20.0.2")}}}})
	everywhere := ForeignWorkload{abroadID, []netip.Addr{addr("10.1.0.1"), addr("10.1.0.2"), addr("10.1.0.3"), addr("10.96.0.9"), addr("172.20.0.2"), addr("172.20.0.3"), addr("172.20.0.4")}}
	r.SetForeign([]ForeignDomain{{TrustDomain: abroadID.TrustDomain(), CIDRs: []netip.Prefix{prefix("10.0.0.0/8"), prefix(abroadCIDR)}, Workloads: []ForeignWorkload{everywhere}}})
	if d := resolve(t, r, "10.1.0.1:80"); d.Peer.Name != "web" {
		t.Errorf("a pod of the mesh: %+v", d)
	}
	if d := resolve(t, r, "10.1.0.3:80"); d.Peer.Name != "legacy" {
		t.Errorf("a pod outside the mesh, in its CIDRs: %+v", d)
	}
	if d := resolve(t, r, "10.96.0.9:80"); d.Peer.Name != "web" {
		t.Errorf("a Service: %+v", d)
	}
	refuses(t, r, "a pod of the mesh outside its CIDRs", "172.20.0.4:80", "and of pod shop/in of this mesh")
	refuses(t, r, "nobody of ours", "10.1.0.2:80", "no pod or service has this address")
	refuses(t, r, "a node of ours", "172.20.0.2:22", "and of a node of this mesh")
	refuses(t, r, "a pod outside the mesh", "172.20.0.3:80", "and of pod shop/out of this mesh")
	if _, known := r.ByAddr(addr("172.20.0.9")); known || r.OriginOf(abroadID, addr("172.20.0.9")) != Unknown {
		t.Error("a workload of another trust domain is one of ours")
	}
}

// An address of another trust domain that this mesh has, too, leads nowhere by any port: not
// to a pod or Service behind a node's port, nor to a Service's cluster IP.
func TestAnAddressThatTwoMeshesHaveLeadsNowhereByAnyPort(t *testing.T) {
	hp := pod("hp", "u2", "10.1.0.2")
	hp.Node, hp.HostPorts = "n", []HostPort{{Port: 80, To: 8080}}
	behind := Service{Namespace: "shop", Name: "web", VIPs: []netip.Addr{addr("172.20.0.9")}, Ports: []ServicePort{{Port: 80, NodePort: 30080, Endpoints: ready("10.1.0.1:8080")}}}
	r := registry(t, Mesh{Workloads: Pack(pod("web", "u1", "10.1.0.1"), hp), Services: []Service{behind}, Nodes: []Node{{Name: "n", Addrs: []netip.Addr{addr(abroadWeb)}}}})
	for dst, name := range map[string]string{abroadWeb + ":80": "hp", abroadWeb + ":30080": "web", "172.20.0.9:80": "web"} {
		if d := resolve(t, r, dst); d.Peer.Name != name {
			t.Fatalf("before the list, %s: %+v", dst, d)
		}
	}
	for _, named := range [][]ForeignWorkload{{{abroadID, []netip.Addr{addr(abroadWeb), addr("172.20.0.9")}}}, nil} {
		r.SetForeign(otherDomain(named...))
		refuses(t, r, "a pod's port of a node", abroadWeb+":80", "and of a node of this mesh")
		refuses(t, r, "a Service's port of a node", abroadWeb+":30080", "and of a node of this mesh")
		refuses(t, r, "a cluster IP", "172.20.0.9:80", "and of Service shop/web of this mesh")
	}
}

// A connection is judged by one snapshot and one list, though others come meanwhile.
func TestAConnectionIsJudgedByOneSnapshotAndOneList(t *testing.T) {
	r := registry(t, Mesh{})
	r.SetForeign(otherDomain(ForeignWorkload{abroadID, []netip.Addr{addr(abroadWeb)}}))
	before := r.ground()
	r.Replace(Mesh{CIDRs: []netip.Prefix{prefix(abroadCIDR)}})
	r.SetForeign(otherDomain())
	if d, err := before.resolve(client, ap(abroadWeb+":80")); err != nil || d.Peer.ID != abroadID {
		t.Errorf("%+v, %v: part of it is of what came later", d, err)
	}
	refuses(t, r, "by what is in force", abroadWeb+":80", "no pod or service has this address")
}

// Tunnels that are open rest on the answer that a new connection gets.
func TestAWorkloadIsExpectedAbroadAsLongAsItsAddressLeadsThere(t *testing.T) {
	unmeshed := pod("out", "u1", abroadWeb)
	unmeshed.Meshed = false
	host := pod("host", "u1", abroadWeb)
	host.HostNetwork = true
	for what, mesh := range map[string]Mesh{
		"CIDRs of this mesh":      {CIDRs: []netip.Prefix{prefix(abroadCIDR)}},
		"a node":                  {Nodes: []Node{{Name: "n", Addrs: []netip.Addr{addr(abroadWeb)}}}},
		"a pod outside the mesh":  {Workloads: Pack(unmeshed)},
		"a pod of the mesh":       {Workloads: Pack(pod("in", "u1", abroadWeb))},
		"a pod of a node network": {Workloads: Pack(host)},
		"a cluster IP":            {Services: []Service{{Namespace: "shop", Name: "web", VIPs: []netip.Addr{addr(abroadWeb)}}}},
	} {
		r := registry(t, Mesh{})
		r.SetForeign(otherDomain(ForeignWorkload{abroadID, []netip.Addr{addr(abroadWeb), addr("fd20::7")}}))
		if d := resolve(t, r, abroadWeb+":80"); d.Peer.ID != abroadID || !r.ExpectsForeign(abroadID, addr(abroadWeb)) || len(r.Contested()) != 0 {
			t.Errorf("%s: before: %+v, contested: %v", what, d, r.Contested())
		}
		r.Replace(mesh)
		refuses(t, r, what, abroadWeb+":80", "")
		if r.ExpectsForeign(abroadID, addr(abroadWeb)) || !r.ExpectsForeign(abroadID, addr("fd20::7")) {
			t.Errorf("%s: others are expected than are led to", what)
		}
		if all := r.Contested(); len(all) != 1 || all[0] != addr(abroadWeb) {
			t.Errorf("%s: contested: %v", what, all)
		}
	}
}

// A CIDR that becomes smaller leaves the rest of it refused.
func TestARestOfCIDRsThatShrinkStaysRefused(t *testing.T) {
	r := registry(t, Mesh{})
	r.SetForeign(otherDomain())
	smaller := otherDomain()
	smaller[0].CIDRs = []netip.Prefix{prefix("172.20.0.0/24")}
	r.SetForeign(smaller)
	refuses(t, r, "it is in the CIDR of before", "172.20.1.1:80", "names no workload there")

	told := registry(t, Mesh{})
	told.SetForeign(r.FormerForeign())
	told.SetForeign(r.Foreign())
	refuses(t, told, "a registry that is told the same", "172.20.1.1:80", "names no workload there")
	told.SetForeign(nil)
	refuses(t, told, "and that no domain is left", "172.20.0.1:80", "names no workload there")
}

// Before there is a snapshot nobody knows which addresses are ours.
func TestNobodyIsReachedAbroadBeforeTheFirstSnapshot(t *testing.T) {
	r := NewRegistry(nil)
	r.SetForeign(otherDomain(ForeignWorkload{abroadID, []netip.Addr{addr(abroadWeb)}}))
	refuses(t, r, "before the first snapshot", abroadWeb+":80", "workloads are not known yet")
	sibling := spiffeid.RequireFromPath(abroadID.TrustDomain(), "/ns/shop/sa/api")
	if !r.ExpectsForeign(abroadID, addr(abroadWeb)) || r.ExpectsForeign(sibling, addr(abroadWeb)) || r.ExpectsForeign(abroadID, addr(abroadNone)) || r.ExpectsForeign(spiffeid.ID{}, addr(abroadNone)) {
		t.Error("others are expected than are named")
	}
}
