// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/x509"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const (
	web = "spiffe://cluster.local/ns/shop/sa/web"
	day = clitest.Day
)

// Certificates are valid around now: the linter goes by the clock of the machine.
var (
	now    = time.Now().Truncate(time.Second)
	root   = clitest.Authority("root", nil, now.Add(-day), now.Add(3000*day))
	issuer = clitest.Authority("issuer", root, now.Add(-day), now.Add(300*day))
	parent = clitest.Parent("parent", root, now.Add(-day), now.Add(2000*day))
	below  = clitest.Authority("issuer under parent", parent, now.Add(-day), now.Add(300*day))
	other  = clitest.Authority("other root", nil, now.Add(-day), now.Add(3000*day))
)

func leaf(by *clitest.Signer, id string, left time.Duration) *clitest.Signer {
	return by.Leaf(id, now.Add(left-time.Hour), now.Add(left))
}

func held(by *clitest.Signer, id string, left time.Duration) fleet.Held {
	l := leaf(by, id, left)
	return fleet.Held{Identity: id, State: "Available", Chain: []*x509.Certificate{l.Cert, by.Cert}, Roots: []*x509.Certificate{by.By.Cert}}
}

func node(name string) fleet.Node {
	n := fleet.Node{Target: fleet.Target{Name: name}}
	n.Dump.Config.TrustDomain, n.Dump.Config.TTL, n.Dump.Config.NodeName = "cluster.local", "1h0m0s", name
	n.Dump.CA.Reason = "signs"
	n.Dump.Denying = &fleet.Denying{Generation: 7, Connected: 2}
	n.Dump.Certificates = []fleet.Held{held(issuer, web, 40*time.Minute)}
	n.Dump.Pods = map[string]fleet.Pod{"u-" + name: {Identity: web, State: enrolled, Verified: now}}
	for _, on := range []string{"node1", "node2"} {
		n.Dump.Workloads = append(n.Dump.Workloads, workload.Workload{UID: "u-" + on, Namespace: "shop", Name: "web-" + on, Node: on, Meshed: true, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	}
	partner := spiffeid.RequireTrustDomainFromString("partner.example")
	n.Dump.Foreign = &fleet.Foreign{Domains: []workload.ForeignDomain{{TrustDomain: partner, Workloads: make([]workload.ForeignWorkload, 2)}}}
	n.Dump.Following = federatedWith("partner.example")
	n.Dump.Steering, n.Dump.Network = &fleet.Steering{}, &fleet.Network{}
	n.Dump.Host, n.Dump.Version = &fleet.Host{Kernel: "6.18.44-generic", Cgroups: "v2"}, "v1.2.3"
	return n
}

// federatedWith is a node that has the bundle of another trust domain.
func federatedWith(td string) *fleet.Following {
	f := &fleet.Following{Connected: true}
	f.Federated = append(f.Federated, struct {
		TrustDomain string `json:"trustDomain"`
		Roots       int    `json:"roots"`
	}{td, 1})
	return f
}

func replica(name string) fleet.CA {
	serving := issuer.Server(now.Add(-time.Hour), now.Add(23*time.Hour), "culvert-identity.culvert-system.svc")
	ca := fleet.CA{Target: fleet.Target{Name: name, Ready: true}, Chain: []*x509.Certificate{serving.Cert, issuer.Cert}, State: &fleet.State{TrustDomain: "cluster.local"}}
	ca.State.Bundle.SHA256, ca.State.Issuance.TTLSeconds = "set", 3600
	ca.State.DenySet = denySet(7, "")
	ca.State.Federation = &fleet.Federations{Domains: []fleet.Federation{{TrustDomain: "partner.example", Roots: 1, AgeSeconds: 100, RefreshSeconds: 300}}}
	ca.State.Ledger = &fleet.Ledger{Anchor: &fleet.Anchor{State: "held", Seq: 7, AgeSeconds: 30}}
	return ca
}

// denySet is what a replica says of its deny set.
func denySet(generation uint64, problem string) *fleet.DenySet {
	return &fleet.DenySet{Generation: generation, Problem: problem}
}

func pod(name, app, on string, volumes ...corev1.Volume) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": app}},
		Spec:       corev1.PodSpec{NodeName: on, Volumes: volumes},
		Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "ztunnel", Ready: true}, {Name: "cni", Ready: true}}},
	}
}

func token(audience string) corev1.Volume {
	return corev1.Volume{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience}}},
	}}}
}

// well is a mesh in which every question is answered OK.
func well() *World {
	return &World{
		Now: now, Where: "Secret culvert-system/culvert-ca", Files: clitest.Files(root, issuer), Roots: []*x509.Certificate{root.Cert},
		Nodes: []fleet.Node{node("node1"), node("node2")}, CAs: []fleet.CA{replica("ca-1"), replica("ca-2")},
		Served: []Served{{Node: "node1", Identity: web, Address: "10.0.0.1:15008", Leaf: leaf(issuer, web, 40*time.Minute).Cert}},
		Cluster: &Cluster{
			Namespace: "culvert-system", Secret: "own-ca", Version: "v1.37.2", Rights: []Right{{What: "create secrets", Allowed: true}},
			Pods: []corev1.Pod{
				pod("ztunnel-1", "ztunnel", "node1", token("culvert-identity")),
				pod("culvert-identity-1", "culvert-identity", "node1"), pod("culvert-identity-2", "culvert-identity", "node2"),
			},
		},
	}
}

func TestAMeshThatIsWellPassesAllAndNothingIsSkipped(t *testing.T) {
	for _, r := range Run(well()) {
		if r.State != OK || r.Hint != "" {
			t.Errorf("%s: %s %s", r.ID, r.State, r.Detail)
		}
	}
}

// verified is when the kernel last confirmed the pod of the first node.
func verified(w *World, at time.Time) {
	pod := fleet.Pod{Identity: web, State: enrolled, Verified: at}
	pod.Sandbox.Namespace, pod.Sandbox.Name = "shop", "web"
	w.Nodes[0].Dump.Pods = map[string]fleet.Pod{"u-node1": pod}
}

// renewed has everybody trust the root and its next certificate.
func renewed(w *World) {
	next := clitest.Authority("root", nil, now, now.Add(6000*day)).Cert
	w.Roots = append(w.Roots, next)
	for i := range w.Nodes {
		w.Nodes[i].Dump.Certificates[0].Roots = slices.Clone(w.Roots)
	}
}

// The former certificate of a root is no trouble where the next one is, too: not when it
// ends soon, and not when it has.
func TestAFormerRootIsNoTroubleBesideItsNextCertificate(t *testing.T) {
	w := well()
	renewed(w)
	for _, after := range []time.Duration{0, 2950 * day, 3001 * day} {
		w.Now = now.Add(after)
		for _, r := range Run(w, CategoryRoots) {
			if r.State != OK {
				t.Errorf("after %v: %s: %s %s", after, r.ID, r.State, r.Detail)
			}
		}
	}
}

// A004-17: certificates may have DNS names of their own namespace.
func TestDNSNamesOfTheOwnNamespaceAreNoTrouble(t *testing.T) {
	for names, want := range map[string]State{"web.shop.svc web-1.shop.pod": OK, "web.shop.svc db.bank.svc": Failed} {
		w := well()
		for _, n := range w.Nodes {
			for _, h := range n.Dump.Certificates {
				named := *h.Chain[0]
				named.DNSNames = strings.Fields(names)
				h.Chain[0] = &named
			}
		}
		for _, r := range Run(w, CategoryLeaves) {
			if r.ID == "leaf-name" && r.State != want {
				t.Errorf("%s: %s %s, want %s", names, r.State, r.Detail, want)
			}
		}
	}
}

// A002-17: what cert-manager has in ca.crt is a root, though another has signed it.
func TestTheDirectParentOfCertManagersIssuerIsARootAndNoIssuer(t *testing.T) {
	w := well()
	w.Files, w.Roots = clitest.CertManager(parent, below), []*x509.Certificate{parent.Cert}
	for i := range w.Nodes {
		w.Nodes[i].Dump.Certificates = []fleet.Held{held(below, web, 40*time.Minute)}
	}
	for i := range w.CAs {
		w.CAs[i].Chain[1] = below.Cert
	}
	for _, r := range Run(w, CategoryRoots, CategoryIssuer) {
		if r.State != OK {
			t.Errorf("%s: %s %s", r.ID, r.State, r.Detail)
		}
	}
	if all := w.issuers(); len(all) != 1 || !all[0].Equal(below.Cert) {
		t.Errorf("%d issuers", len(all))
	}
}

// A002-10: each question has a mesh in which it fails, by name, and says what was found.
// N-14: a certificate that a pod serves and its node does not hold is found. A004-10: both
// trust domains are named. A000-10: the node whose clock is off is named.
func TestEachQuestionHasAMeshInWhichItFails(t *testing.T) {
	type failing struct {
		id     string
		state  State
		detail string
		change func(*World)
	}
	table := []failing{
		{"kubernetes-version", Failed, "it is v1.29.4", func(w *World) { w.Cluster.Version = "v1.29.4" }},
		{"install-rights", Failed, "may not create secrets", func(w *World) { w.Cluster.Rights[0].Allowed = false }},
		{"other-meshes", Warning, "DaemonSet istio-system/istio-cni-node: takes pods", func(w *World) {
			w.Cluster.Foreign = []Foreign{{What: "DaemonSet istio-system/istio-cni-node", Why: "takes pods"}}
		}},
		{"other-meshes", Failed, "Cilium: exclusive; change the ConfigMap", func(w *World) {
			w.Cluster.Foreign = []Foreign{{What: "Cilium", Why: "exclusive", Object: "the ConfigMap", Breaks: true}}
		}},
		{"other-meshes", Skipped, "forbidden", func(w *World) { w.Cluster.Problem = "forbidden" }},
		{"node-kernel", Failed, `node node1 has "5.4.0-42-generic"`, func(w *World) { w.Nodes[0].Dump.Host.Kernel = "5.4.0-42-generic" }},
		{"node-kernel", Skipped, "older ztunnels", func(w *World) { w.Nodes[0].Dump.Host, w.Nodes[1].Dump.Host = nil, nil }},
		{"node-bpf", Warning, `node node2: sk_msg program "redir", id 7`, func(w *World) {
			w.Nodes[1].Dump.Host.Others = []fleet.Other{{ID: 6, Name: "cil_sock4", Kind: "connect4"}, {ID: 7, Name: "redir", Kind: "sk_msg"}}
		}},
		{"node-bpf", Warning, "node node1: not known: operation not permitted", func(w *World) { w.Nodes[0].Dump.Host.Problem = "operation not permitted" }},
		{"node-plugin", Failed, "pod ztunnel-1 on node node1: its container cni is not ready", func(w *World) { w.Cluster.Pods[0].Status.ContainerStatuses[1].Ready = false }},
		{"ztunnel-ready", Failed, "pod ztunnel-1 on node node1: its container ztunnel has not begun", func(w *World) { w.Cluster.Pods[0].Status.ContainerStatuses = nil }},
		{"steering-sound", Failed, "node node1: connect4 is not attached", func(w *World) { w.Nodes[0].Dump.Steering.Problem = "connect4 is not attached" }},
		{"steering-sound", Warning, "node node1 does not say", func(w *World) { w.Nodes[0].Dump.Steering = nil }},
		{"steering-sound", Skipped, "older ztunnels", func(w *World) { w.Nodes[0].Dump.Steering, w.Nodes[1].Dump.Steering = nil, nil }},
		{"steering-repaired", Warning, "sk_lookup link: shop/web-node2", func(w *World) {
			w.Nodes[1].Dump.Steering.Repairs = []fleet.Repair{
				{At: now.Add(-2 * time.Hour), What: "of before"}, {At: now.Add(-time.Minute), What: "sk_lookup link", Pod: "shop/web-node2"},
			}
		}},
		{"pods-enrolled", Failed, "shop/web-node2 on node node2: the node does not know it", func(w *World) { w.Nodes[1].Dump.Pods = nil }},
		{"pods-enrolled", Failed, "shop/web-node2 on node node2: failed: no such netns", func(w *World) {
			w.Nodes[1].Dump.Pods = map[string]fleet.Pod{"u-node2": {State: "failed", Reason: "no such netns"}}
		}},
		{"pods-verified", Failed, "shop/web on node node1: not since ", func(w *World) { verified(w, now.Add(-time.Minute)) }},
		{"pods-verified", Warning, "shop/web on node node1: not yet", func(w *World) { verified(w, time.Time{}) }},
		{"pods-verified", Failed, "shop/web on node node1: no rule", func(w *World) {
			verified(w, time.Time{})
			pod := w.Nodes[0].Dump.Pods["u-node1"]
			pod.Reason = "no rule"
			w.Nodes[0].Dump.Pods["u-node1"] = pod
		}},
		{"pods-verified", Skipped, "older ztunnels", func(w *World) { w.Nodes[0].Dump.Steering, w.Nodes[1].Dump.Steering = nil, nil }},
		{"pods-enrolled", Failed, "shop/web-node2 on node node2: there is no ztunnel", func(w *World) { w.Nodes = w.Nodes[:1] }},
		{"ztunnel-ready", Failed, "there is no pod of ztunnel", func(w *World) { w.Cluster.Pods = w.Cluster.Pods[1:] }},
		{"node-kernel", OK, "", func(w *World) { w.Nodes[0].Dump.Host.Kernel = "6.8+" }},
		{"node-kernel", Warning, `"x" is no version`, func(w *World) { w.Nodes[0].Dump.Host.Kernel = "x" }},
		{"policies-understood", Warning, "AuthorizationPolicy shop/p: spec.rules[0].to[0].methods: not at layer 4", func(w *World) {
			w.Nodes[0].Dump.Policies.AuthorizationPolicies = []policy.AuthorizationPolicy{
				{Object: policy.Object{Namespace: "shop", Name: "p"}, Warnings: []string{"spec.rules[0].to[0].methods: not at layer 4"}},
			}
		}},
		{"tunnels-let-through", Failed, "NetworkPolicy shop/tight", func(w *World) { w.Nodes[1].Dump.Network.Blocking = []string{"shop/tight"} }},
		{"one-version", Warning, "v1.2.3 on node1; v1.2.4 on node2", func(w *World) { w.Nodes[1].Dump.Version = "v1.2.4" }},
		{"ca-files", Failed, "there is no CA", func(w *World) { w.Files = nil }},
		{"ca-files", Skipped, "forbidden", func(w *World) { w.Files, w.FilesProblem = nil, "forbidden" }},
		{"ca-lint", Failed, "issuer.key", func(w *World) { w.Files["issuer.key"] = other.KeyPEM() }},
		{"ca-lint", Skipped, "not examined without --ca-passphrase-file: issuer.key", func(w *World) { w.Files["issuer.key"] = issuer.SealedPEM("sesame") }},
		{"ca-lint", Failed, "its passphrase cannot be read", func(w *World) {
			w.Files["issuer.key"], w.PassphraseFile = issuer.SealedPEM("sesame"), "/nothere"
		}},
		{"ca-lint", Warning, "ca.crt is not self-signed", func(w *World) { w.Files = clitest.CertManager(parent, below) }},
		{"ca-key-on-no-node", Failed, "pod ztunnel-1 mounts the Secret own-ca", func(w *World) {
			w.Cluster.Pods[0].Spec.Volumes = append(w.Cluster.Pods[0].Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "own-ca"}}})
		}},
		{"roots-found", Failed, "none is published: away", func(w *World) { w.Roots, w.RootsProblem = nil, "away" }},
		{"roots-algorithm", Failed, "weak: its RSA key has 1024 bits", func(w *World) { w.Roots = append(w.Roots, weakRoot(t)) }},
		{"roots-valid", Failed, "root expired at ", func(w *World) { w.Now = now.Add(3001 * day) }},
		{"roots-valid", Failed, "root is not valid before ", func(w *World) { w.Now = now.Add(-2 * day) }},
		{"roots-last", Warning, "root ends in 50 days", func(w *World) { w.Now = now.Add(2950 * day) }},
		{"roots-last", Warning, "root ends in 50 days", func(w *World) { // node2 has the former one alone
			renewed(w)
			w.Now, w.Nodes[1].Dump.Certificates[0].Roots = now.Add(2950*day), []*x509.Certificate{root.Cert}
		}},
		{"roots-distinct", Warning, "two roots are named root", func(w *World) {
			w.Roots = append(w.Roots, clitest.Mint("another key", nil, now, now.Add(day), func(c *x509.Certificate) { c.Subject.CommonName = "root" }).Cert)
		}},
		{"issuer-found", Failed, "no replica of the CA", func(w *World) { w.Files, w.CAs, w.Nodes = nil, nil, nil }},
		{"issuer-authority", Failed, "no CA may not sign others", func(w *World) {
			w.CAs[0].Chain[1] = clitest.Mint("no CA", root, now, now.Add(day), func(c *x509.Certificate) { c.Subject.CommonName = "no CA" }).Cert
		}},
		{"issuer-algorithm", Failed, "weak issuer: its RSA key has 1024 bits", func(w *World) { w.CAs[0].Chain[1] = weakIssuer(t) }},
		{"issuer-valid", Failed, "issuer expired at ", func(w *World) { w.Now = now.Add(301 * day) }},
		{"issuer-last", Warning, "issuer ends in 50 days", func(w *World) { w.Now = now.Add(250 * day) }},
		{"issuer-last", Failed, "issuer ends in 50 days", func(w *World) { w.Now, w.FailWithin = now.Add(250*day), 60*day }},
		{"issuer-of-root", Failed, "node node1 trusts no root of issuer, by which ca-1 signs", func(w *World) {
			w.Nodes[0].Dump.Certificates[0].Roots = []*x509.Certificate{other.Cert}
		}},
		{"issuer-of-root", Failed, "issuer is issued by no root that is published", func(w *World) { w.Roots = []*x509.Certificate{other.Cert} }},
		{"issuer-outlives-leaves", Failed, "issuer has 5h0m0s left, leaves get 1h0m0s", func(w *World) { w.Now = now.Add(300*day - 5*time.Hour) }},
		{"ca-answers", Failed, "ca-1: connection refused", func(w *World) { w.CAs[0].Problem = "connection refused" }},
		{"ca-ready", Failed, "ca-1: issuer: it has expired", func(w *World) {
			w.CAs[0].State.Readiness = append(w.CAs[0].State.Readiness, struct {
				Name    string `json:"name"`
				Ready   bool   `json:"ready"`
				Problem string `json:"problem"`
			}{"issuer", false, "it has expired"})
		}},
		{"ca-certificate", Failed, "ca-1: expired at ", func(w *World) { w.Now = now.Add(24 * time.Hour) }},
		{"ca-certificate", Warning, "ca-1: 5h0m0s left", func(w *World) { w.Now = now.Add(18 * time.Hour) }},
		{"ca-certificate-trusted", Failed, "node node1 has no root of what ca-1 presents", func(w *World) {
			w.Nodes[0].Dump.Certificates[0].Roots = []*x509.Certificate{other.Cert}
		}},
		{"ca-certificate-name", Failed, "nodes ask for culvert-identity.mesh.svc", func(w *World) { w.Cluster.Namespace = "mesh" }},
		{"trust-domain", Failed, "the CA ca-1 says cluster.local, node node2 says example.org", func(w *World) { w.Nodes[1].Dump.Config.TrustDomain = "example.org" }},
		{"bundle-current", Failed, "node node2 does not trust other root", func(w *World) {
			w.Roots = append(w.Roots, other.Cert)
			w.Nodes[0].Dump.Certificates[0].Roots = w.Roots
		}},
		{"bundle-current", Warning, "node node1 still trusts other root", func(w *World) {
			w.Nodes[0].Dump.Certificates[0].Roots = []*x509.Certificate{root.Cert, other.Cert}
		}},
		{"bundle-current", Warning, "node node1 hears no news of the bundle since ", func(w *World) {
			w.Nodes[0].Dump.Following = &fleet.Following{Problem: "the CA does not speak of it"}
		}},
		{"denials-current", Failed, "node node1 has not heard for 1m30s whom the CA denies: nobody answers", func(w *World) {
			w.Nodes[0].Dump.Denying = &fleet.Denying{Generation: 7, AgeSeconds: 90, Problem: "nobody answers"}
		}},
		{"denials-current", Warning, "node node1 denies by generation 6, and ca-1 has 7", func(w *World) {
			w.CAs[0].State.DenySet = denySet(7, "")
			w.Nodes[0].Dump.Denying = &fleet.Denying{Generation: 6, Connected: 2}
		}},
		{"denials-current", Failed, "ca-1 does not go by what was written last: not a list", func(w *World) { w.CAs[0].State.DenySet = denySet(7, "not a list") }},
		{"federation-known", Failed, "ca-1 has no bundle of partner.example: its workloads are refused: no such host", func(w *World) {
			w.CAs[0].State.Federation.Domains[0] = fleet.Federation{TrustDomain: "partner.example", Problem: "no such host"}
		}},
		{"foreign-known", Failed, "node node1 has no bundle of partner.example, of which it names 2 workloads: they are not reached", func(w *World) {
			w.Nodes[0].Dump.Following = federatedWith("third.example")
		}},
		{"foreign-known", Failed, "node node2 goes by what -foreign-workloads said before: [0].cidrs", func(w *World) { w.Nodes[1].Dump.Foreign.Problem = "[0].cidrs: none" }},
		{"foreign-known", Skipped, "no node names workloads of other trust domains", func(w *World) {
			w.Nodes[0].Dump.Foreign, w.Nodes[1].Dump.Foreign = nil, &fleet.Foreign{}
		}},
		{"federation-known", Failed, "ca-2 goes by what was written before: not a list", func(w *World) { w.CAs[1].State.Federation.Problem = "not a list" }},
		{"federation-current", Failed, "ca-1 fetched that of partner.example 15m1s ago, and should every 5m0s: no such host", func(w *World) {
			f := &w.CAs[0].State.Federation.Domains[0]
			f.AgeSeconds, f.Problem = 901, "no such host"
		}},
		{"federation-current", Warning, "ca-1: the last attempt to fetch that of partner.example failed: no such host", func(w *World) {
			w.CAs[0].State.Federation.Domains[0].Problem = "no such host"
		}},
		{"federation-current", Warning, "the bundleFile of partner.example has 2 roots", func(w *World) { w.CAs[0].State.Federation.Domains[0].Dropped = 2 }},
		{"federation-current", Skipped, "the CA is federated with nobody", func(w *World) { w.CAs[0].State.Federation, w.CAs[1].State.Federation = nil, nil }},
		{"ledger-written", Failed, "ca-1 cannot write its ledger", func(w *World) { w.CAs[0].State.Ledger.Failing = true }},
		{"ledger-written", Skipped, "no replica keeps a ledger", func(w *World) { w.CAs[0].State.Ledger, w.CAs[1].State.Ledger = nil, nil }},
		{"ledger-anchored", Failed, "ca-1: the chain 1 of ca-1 had come to seq 7", func(w *World) { w.CAs[0].State.Ledger.Anchor.Lost = []string{"the chain 1 of ca-1 had come to seq 7"} }},
		{"ledger-anchored", Warning, "ca-2: its checkpoint outside of its disk is 16m40s old: forbidden", func(w *World) {
			w.CAs[1].State.Ledger.Anchor.AgeSeconds, w.CAs[1].State.Ledger.Anchor.Problem = 1000, "forbidden"
		}},
		{"ledger-anchored", Warning, "ca-1: it is not yet compared with its checkpoint outside of its disk: forbidden", func(w *World) {
			*w.CAs[0].State.Ledger.Anchor = fleet.Anchor{State: "waiting", AgeSeconds: 14 * 60, Problem: "forbidden"}
		}},
		{"ledger-anchored", Warning, "ca-2 has no checkpoint outside of its disk", func(w *World) { w.CAs[1].State.Ledger.Anchor = nil }},
		{"bundle-replicas", Failed, "ca-2 has differs", func(w *World) { w.CAs[1].State.Bundle.SHA256 = "differs" }},
		{"nodes-answer", Failed, "node node2: connection refused", func(w *World) {
			w.Nodes[1] = fleet.Node{Target: fleet.Target{Name: "node2"}, Problem: "connection refused"}
		}},
		{"ca-signs", Failed, "node node1: token_expired since ", func(w *World) { w.Nodes[0].Dump.CA.Reason = "token_expired" }},
		{"ca-signs", Failed, "node node1 does not say", func(w *World) { w.Nodes[0].Dump.CA.Reason = "" }},
		{"leaf-valid", Failed, "node node1 shows none for " + web, func(w *World) {
			w.Nodes[0].Dump.Certificates = nil
			w.Nodes[0].Dump.Pods = map[string]fleet.Pod{"u": {Identity: web, State: "enrolled"}}
		}},
		{"leaf-valid", Failed, "that of " + web + " expired at ", func(w *World) { w.Now = now.Add(time.Hour) }},
		{"leaf-valid", Failed, "node node1 has none for " + web + ": Unavailable: refused", func(w *World) {
			w.Nodes[0].Dump.Certificates[0] = fleet.Held{Identity: web, State: "Unavailable: refused"}
		}},
		{"leaf-renewed", Failed, "node node1: that of " + web + " is overdue: no answer", func(w *World) {
			p := w.Nodes[0].Dump.Pods["u-node1"]
			p.Certificate = &struct {
				State string `json:"state"`
				Error string `json:"error"`
			}{"overdue", "no answer"}
			w.Nodes[0].Dump.Pods["u-node1"] = p
		}},
		{"leaf-issuer", Warning, "is of CN=former, which signs no more", func(w *World) {
			former := clitest.Authority("former", root, now.Add(-day), now.Add(100*day))
			w.Nodes[0].Dump.Certificates[0] = held(former, web, 40*time.Minute)
		}},
		{"leaf-name", Failed, "names spiffe://cluster.local/ns/shop/sa/db", func(w *World) {
			h := held(issuer, "spiffe://cluster.local/ns/shop/sa/db", 40*time.Minute)
			h.Identity = web
			w.Nodes[0].Dump.Certificates[0] = h
		}},
		{"leaf-served", Failed, "which the node does not hold", func(w *World) { w.Served[0].Leaf = leaf(issuer, web, -time.Hour).Cert }},
		{"leaf-served", Skipped, "no pod of 1 can be reached from here", func(w *World) { w.Served[0].Leaf = nil }},
		{"token-audience", Failed, "pod ztunnel-1 has no token for the audience culvert-identity", func(w *World) {
			w.Cluster.Pods[0].Spec.Volumes = []corev1.Volume{token("kubernetes")}
		}},
		{"clocks", Failed, "node node2 is -14m0s off", func(w *World) { w.Nodes[1].Clock = fleet.Clock{Offset: -14 * time.Minute, Within: time.Second} }},
		{"clocks", Warning, "the CA ca-1 is 10s off", func(w *World) { w.CAs[0].Clock = fleet.Clock{Offset: 10 * time.Second, Within: time.Second} }},
		{"ca-replicas", Failed, "none of 2 is ready", func(w *World) { w.CAs[0].Ready, w.CAs[1].Ready = false, false }},
		{"ca-replicas", Warning, "one of 2 is ready", func(w *World) { w.CAs[0].Ready = false }},
		{"ca-spread", Warning, "all 2 are on node1", func(w *World) { w.Cluster.Pods[2].Spec.NodeName = "node1" }},
	}
	tested := map[string]bool{}
	for _, tc := range table {
		w := well()
		tc.change(w)
		tested[tc.id] = true
		i := slices.IndexFunc(Run(w), func(r Result) bool { return r.ID == tc.id })
		if i < 0 {
			t.Errorf("%s: there is no such question", tc.id)
			continue
		}
		r := Run(w)[i]
		if r.State != tc.state || !strings.Contains(r.Detail, tc.detail) || (r.Hint == "" || r.Docs == "") != (tc.state == OK) {
			t.Errorf("%s: %s %q, want %s %q", tc.id, r.State, r.Detail, tc.state, tc.detail)
		}
	}
	for _, r := range rules() {
		if !tested[r.id] {
			t.Errorf("%s: no mesh in which it fails", r.id)
		}
	}
}

func TestWithoutAKubernetesAndWithoutAnAnswerMuchIsSkippedAndNothingPasses(t *testing.T) {
	for _, r := range Run(&World{Now: now}) {
		if r.State == OK && r.Category != CategoryIssuer && r.Category != CategoryRoots {
			t.Errorf("%s: %s", r.ID, r.State)
		}
	}
}

func TestAQuestionIsExplainedInTheDocs(t *testing.T) {
	text, err := os.ReadFile("../../" + Docs)
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	for _, m := range regexp.MustCompile(`(?m)^### ([a-z0-9-]+)$`).FindAllStringSubmatch(string(text), -1) {
		explained = append(explained, m[1])
	}
	for _, r := range rules() {
		if !slices.Contains(explained, r.id) {
			t.Errorf("%s does not explain %s", Docs, r.id)
		}
	}
	if len(explained) != len(rules()) {
		t.Errorf("%s explains %d questions, there are %d", Docs, len(explained), len(rules()))
	}
}
