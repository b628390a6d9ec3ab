// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// variants are what the objects of a small cluster may look like, by name: each
// list holds one object in several states.
func variants(t *testing.T) [][]Object {
	var all [][]Object
	for _, ns := range []string{"shop", "bank"} {
		all = append(all, []Object{
			parse[corev1.Namespace](t, `{metadata: {name: `+ns+`}}`),
			parse[corev1.Namespace](t, `{metadata: {name: `+ns+`, labels: {culvert.dev/mesh: enabled}}}`),
		}, []Object{
			parse[corev1.Service](t, `{metadata: {name: web, namespace: `+ns+`}, spec: {clusterIP: 10.2.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}`),
			parse[corev1.Service](t, `{metadata: {name: web, namespace: `+ns+`}, spec: {clusterIP: 10.2.0.1, ports: [{port: 80, targetPort: 8080}]}}`),
			parse[corev1.Service](t, `{metadata: {name: web, namespace: `+ns+`}, spec: {type: ExternalName, externalName: example.com}}`),
		}, []Object{
			slice(t, `{metadata: {name: web-1, namespace: `+ns+`, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.1.0.9]}], ports: [{port: 8080}]}`),
			slice(t, `{metadata: {name: web-1, namespace: `+ns+`, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, endpoints: [{addresses: [10.1.0.9]}], ports: [{port: 8080}]}`),
			slice(t, `{metadata: {name: web-1, namespace: `+ns+`}, addressType: IPv4}`),
		}, []Object{
			parse[PeerAuthentication](t, `{metadata: {name: all, namespace: `+ns+`}, spec: {mtls: {mode: STRICT}}}`),
			parse[PeerAuthentication](t, `{metadata: {name: all, namespace: `+ns+`}, spec: {mtls: {mode: PERMISSIVE}}}`),
		}, []Object{
			parse[AuthorizationPolicy](t, `{metadata: {name: all, namespace: `+ns+`}}`),
		})
		for i := range 4 {
			pod := func(spec, status string) Object {
				return parse[corev1.Pod](t, fmt.Sprintf(`{metadata: {name: p%d, namespace: %s, uid: "%s%d", labels: {app: web}}, spec: {nodeName: node-%d, containers: [{name: a, ports: [{name: http, containerPort: 8080}]}]%s}, status: %s}`,
					i, ns, ns, i, i%2, spec, status))
			}
			all = append(all, []Object{
				pod("", fmt.Sprintf(`{podIP: 10.1.0.%d, hostIP: 192.168.0.%d}`, i, i%2)),
				pod("", `{phase: Pending}`),
				pod("", fmt.Sprintf(`{phase: Succeeded, podIP: 10.1.0.%d, hostIP: 192.168.0.9}`, i)),
				pod(", runtimeClassName: secure", fmt.Sprintf(`{podIP: 10.1.0.%d}`, i)),
			})
		}
	}
	return append(all, []Object{
		parse[nodev1.RuntimeClass](t, `{metadata: {name: secure}, handler: kata}`),
		parse[nodev1.RuntimeClass](t, `{metadata: {name: secure}, handler: runc}`),
	}, []Object{
		parse[corev1.Node](t, `{metadata: {name: node-0}, spec: {podCIDR: 10.1.0.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.0.0}]}}`),
		parse[corev1.Node](t, `{metadata: {name: node-0}, status: {addresses: [{type: InternalIP, address: 192.168.0.7}]}}`),
	})
}

// canonical is a snapshot in an order of its own: a builder promises none.
func canonical(s Snapshot) Snapshot {
	slices.SortFunc(s.Mesh.Workloads, func(a, b *workload.Packed) int { return cmp.Compare(a.UID, b.UID) })
	slices.SortFunc(s.Mesh.Services, func(a, b workload.Service) int { return cmp.Compare(a.Namespace, b.Namespace) })
	s.Mesh.CIDRs = nil // which remember
	return s
}

func TestABuilderSaysTheSameOfObjectsWhateverCameBefore(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	b, present := NewBuilder(options), map[int]Object{}
	all := variants(t)
	for step := range 1000 {
		i := random.IntN(len(all))
		if old := present[i]; old != nil && random.IntN(3) == 0 {
			b.Delete(KindOf(old), nameOf(old))
			delete(present, i)
		} else {
			present[i] = all[i][random.IntN(len(all[i]))]
			if err := b.Set(present[i]); err != nil {
				t.Fatal(err)
			}
		}
		if step%3 > 0 {
			continue // several changes at once, too
		}
		afresh := NewBuilder(options)
		for _, o := range present {
			if err := afresh.Set(o); err != nil {
				t.Fatal(err)
			}
		}
		if diff := gocmp.Diff(canonical(afresh.Snapshot()), canonical(b.Snapshot()), values, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %d, step %d: %s", seed, step, diff)
		}
	}
}

func TestASnapshotIsNotWrittenToByWhatComesLater(t *testing.T) {
	b := NewBuilder(options)
	for _, states := range variants(t) {
		if err := b.Set(states[0]); err != nil {
			t.Fatal(err)
		}
	}
	first := b.Snapshot()
	before := fmt.Sprintf("%+v", first)
	for _, states := range variants(t) {
		if err := b.Set(states[len(states)-1]); err != nil {
			t.Fatal(err)
		}
	}
	b.Snapshot()
	if after := fmt.Sprintf("%+v", first); after != before {
		t.Errorf("was %s\nis %s", before, after)
	}
}

func TestTheAddressesOfTheMeshAreThoseOfNodesAndServicesAndStay(t *testing.T) {
	b := NewBuilder(options)
	node := parse[corev1.Node](t, `{metadata: {name: node-1}, spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, "fd00:1::/64"]}}`)
	for _, o := range []Object{
		node,
		parse[corev1.Node](t, `{metadata: {name: node-2}, spec: {podCIDR: 10.1.1.0/24}}`),
		parse[networkingv1.ServiceCIDR](t, `{metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/12, no]}}`),
	} {
		if err := b.Set(o); err != nil {
			t.Fatal(err)
		}
	}
	want := prefixes("10.1.0.0/23", "10.96.0.0/12", "fd00:1::/64")
	if got := b.Snapshot().Mesh.CIDRs; !slices.Equal(got, want) {
		t.Errorf("CIDRs %v, want %v", got, want)
	}
	b.Delete(KindNode, nameOf(node))
	b.Delete(KindServiceCIDR, Name{Name: "kubernetes"})
	b.AddCIDRs(prefixes("10.7.0.1/16"))
	want = prefixes("10.1.0.0/23", "10.7.0.0/16", "10.96.0.0/12", "fd00:1::/64")
	if got := b.Snapshot().Mesh.CIDRs; !slices.Equal(got, want) {
		t.Errorf("CIDRs %v once objects went, want %v", got, want)
	}
}

func TestPrefixesAreMergedIntoAsFewAsSayTheSame(t *testing.T) {
	for texts, want := range map[string]string{
		"":                                           "",
		"10.0.0.0/8 10.1.0.0/16 10.0.0.0/16":         "10.0.0.0/8",
		"10.0.0.0/24 10.0.1.0/24":                    "10.0.0.0/23",
		"10.0.1.0/24 10.0.2.0/24":                    "10.0.1.0/24 10.0.2.0/24",
		"10.0.0.0/25 10.0.0.128/25 10.0.1.0/24":      "10.0.0.0/23",
		"0.0.0.0/1 128.0.0.0/1 ::/1":                 "0.0.0.0/0 ::/1",
		"fd00::/65 fd00:0:0:0:8000::/65 10.0.0.0/24": "10.0.0.0/24 fd00::/64",
	} {
		c := cidrs{}
		c.add(prefixes(strings.Fields(texts)...)...)
		if got := c.merged(); !slices.Equal(got, prefixes(strings.Fields(want)...)) {
			t.Errorf("%s became %v, want %s", texts, got, want)
		}
	}
}

// A pod leaves the mesh by a label that says no, and not by a typing error in one
// that said yes.
func TestALabelThatMeansNothingLetsNoPodOutOfTheMesh(t *testing.T) {
	b, registry := NewBuilder(options), workload.NewRegistry(nil)
	shop := func(label string) Object {
		return parse[corev1.Namespace](t, `{metadata: {name: shop, labels: {`+label+`}}}`)
	}
	pod := func(name, label string) Object {
		return parse[corev1.Pod](t, `{metadata: {name: `+name+`, namespace: shop, uid: `+name+`, labels: {`+label+`}}}`)
	}
	const yes, odd, no = "culvert.dev/mesh: enabled", "culvert.dev/mesh: enable", "culvert.dev/mesh: disabled"
	is := func(name string, meshed, undecided bool, objects ...Object) {
		t.Helper()
		for _, o := range objects {
			if err := b.Set(o); err != nil {
				t.Fatal(err)
			}
		}
		registry.Replace(b.Snapshot().Mesh)
		if w, _ := registry.ByUID(name); w.Meshed != meshed || w.Undecided != undecided {
			t.Errorf("%s after %v: in the mesh %v, undecided %v; want %v, %v", name, objects, w.Meshed, w.Undecided, meshed, undecided)
		}
	}
	is("a", true, false, shop(yes), pod("a", ""))
	is("a", true, false, shop(odd))
	is("b", false, true, pod("b", "")) // nobody knows what it was to be
	is("c", false, false, pod("c", no))
	is("d", true, false, pod("d", "istio.io/dataplane-mode: ambient"))
	if ns, _ := registry.Namespace("shop"); !ns.Meshed {
		t.Error("the plugin would let pods of the namespace start while no ztunnel answers")
	}
	is("a", false, false, shop(no))
	is("b", false, false)
	is("a", true, false, pod("a", yes))
	is("a", false, false, pod("a", odd)) // its namespace says no
	is("a", true, false, pod("a", yes))
	is("a", true, false, shop(""), pod("a", odd))
}

// Whoever may write policies in one namespace must not be able to open it by
// nonsense, nor to freeze everybody else's.
func TestABuilderCountsWhatDecidesWhoIsInTheMeshAndWhatPoliciesMean(t *testing.T) {
	b := NewBuilder(options)
	shop := func(labels string) Object {
		return parse[corev1.Namespace](t, `{metadata: {name: shop, labels: {`+labels+`}}}`)
	}
	pod := func(name, labels string) Object {
		return parse[corev1.Pod](t, `{metadata: {name: `+name+`, namespace: shop, uid: `+name+`, labels: {`+labels+`}}}`)
	}
	peers := parse[PeerAuthentication](t, `{metadata: {name: strict, namespace: shop}, spec: {mtls: {mode: STRICT}}}`)
	for _, c := range []struct {
		what   string
		object Object
		counts bool
	}{
		{"a namespace outside the mesh", shop(""), false},
		{"a new pod, which nobody reaches by an older snapshot", pod("a", ""), false},
		{"another label of the namespace", shop("team: a"), false},
		{"the namespace comes into the mesh", shop("culvert.dev/mesh: enabled"), true},
		{"and again", shop("culvert.dev/mesh: enabled"), false},
		{"another label of the pod", pod("a", "app: a"), false},
		{"the pod leaves by its own label", pod("a", "culvert.dev/mesh: disabled"), true},
		{"a policy", peers, true},
	} {
		before := b.Decisions()
		if err := b.Set(c.object); err != nil {
			t.Fatal(err)
		}
		if got := b.Decisions() != before; got != c.counts {
			t.Errorf("%s: counted %v, want %v", c.what, got, c.counts)
		}
	}
	before := b.Decisions()
	if b.Delete(KindPeerAuthentication, Name{"shop", "strict"}); b.Decisions() == before {
		t.Error("a policy that went is not counted")
	}
}

func TestAPolicyThatMeansNothingOpensNothing(t *testing.T) {
	b := NewBuilder(options)
	set := func(o Object, understood bool) {
		t.Helper()
		if err := b.Set(o); (err == nil) != understood {
			t.Fatalf("%v", err)
		}
	}
	set(parse[PeerAuthentication](t, `{metadata: {name: known, namespace: shop}, spec: {mtls: {mode: PERMISSIVE}}}`), true)
	set(parse[PeerAuthentication](t, `{metadata: {name: known, namespace: shop}, spec: {mtls: {mode: OPEN}}}`), false)
	set(parse[PeerAuthentication](t, `{metadata: {name: new, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, mtls: {mode: OPEN}}}`), false)
	set(parse[PeerAuthentication](t, `{metadata: {name: star, namespace: shop}, spec: {selector: {matchLabels: {app: "*"}}, mtls: {mode: DISABLE}}}`), false)
	set(parse[AuthorizationPolicy](t, `{metadata: {name: star, namespace: shop}, spec: {selector: {matchLabels: {app: "*"}}, targetRef: {name: web}}}`), false)
	want := policy.Objects{
		RootNamespace: DefaultRootNamespace,
		PeerAuthentications: []policy.PeerAuthentication{
			{Object: policy.Object{Namespace: "shop", Name: "known"}, Mode: policy.Permissive},
			{Object: policy.Object{Namespace: "shop", Name: "new", Selector: policy.Selector{"app": "web"}}, Mode: policy.Strict},
			{Object: policy.Object{Namespace: "shop", Name: "star"}, Mode: policy.Strict},
		},
		AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "star"}}},
	}
	if diff := gocmp.Diff(want, b.Snapshot().Policies); diff != "" {
		t.Error(diff)
	}
	b.Delete(KindPeerAuthentication, Name{"shop", "known"})
	if got := len(b.Snapshot().Policies.PeerAuthentications); got != 2 {
		t.Errorf("%d PeerAuthentications, want the other two", got)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}
