// SPDX-License-Identifier: Apache-2.0

package file

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// FuzzYAML reads any bytes as a file. Whatever is accepted must make a snapshot
// that the registry and the policies can work with, and every error must name
// the file.
func FuzzYAML(f *testing.F) {
	f.Add(onePod)
	f.Add(onePod + "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}}\n...\n")
	f.Add(`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.5, ports: [{port: 80, targetPort: http}], selector: {}}}`)
	f.Add("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: w, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: [10.0.0.1]}]")
	f.Add("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: UNSET}}}")
	f.Add("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicyList\nitems:\n- {metadata: {name: p}, spec: {action: DENY, rules: [{when: [{key: a}]}]}}")
	f.Add("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\n--- |\n ---\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"x.yaml", "x.json"} {
			c := decode(name, []byte(text), nil)
			for _, err := range c.errs.all(name) {
				if !strings.HasPrefix(err.Error(), name+": ") {
					t.Errorf("error without file: %v", err)
				}
			}
			src := New("", Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
			v := &seen{claims: map[key][]entry{}}
			v.claim(c)
			src.settle(v)
			snap := src.force.builder.Snapshot()
			sound(t, snap)
		}
	})
}

func sound(t *testing.T, snap source.Snapshot) {
	set := policy.NewSet()
	set.Replace(snap.Policies)
	registry := workload.NewRegistry([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
	registry.Replace(snap.Mesh)
	for _, w := range snap.Mesh.Workloads {
		switch {
		case w.UID == "" || w.ID.IsZero():
			t.Errorf("workload %+v has no UID or identity", w)
		case w.Meshed && w.HostNetwork:
			t.Errorf("workload %v in the node's network is in the mesh", w)
		case !slices.IsSorted(w.ProbePorts) || slices.Contains(w.ProbePorts, 0):
			t.Errorf("workload %v has probe ports %v", w, w.ProbePorts)
		case set.Mode(w.Workload(), 80) == policy.Unset:
			t.Errorf("workload %v has no mode", w)
		}
		for _, addr := range w.Addrs {
			if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() {
				t.Errorf("workload %v has address %v", w, addr)
			}
		}
	}
	for _, svc := range snap.Mesh.Services {
		for _, vip := range svc.VIPs {
			for _, port := range svc.Ports {
				d, err := registry.Resolve(vip, netip.AddrPortFrom(vip, port.Port))
				if err == nil && (d.Target.Port() == 0 || d.Target.Addr().Is4() != vip.Is4()) {
					t.Errorf("%v of %s leads to %v", vip, svc.Hostname(), d.Target)
				}
			}
		}
	}
}

// FuzzWhatIsWrittenLetsNobodyOut replaces a good file by any other. Until that has rested,
// the pod stays in the mesh and under STRICT, whatever the bytes are.
func FuzzWhatIsWrittenLetsNobodyOut(f *testing.F) {
	f.Add(shop[:len(shop)/2])
	f.Add(webPod)
	f.Add(shopNamespace + "---\n" + strings.ReplaceAll(shop, "STRICT", "PERMISSIVE"))
	f.Add(shop + "---\n" + strings.NewReplacer("name: default", "name: a", "mode: STRICT", "mode: UNSET").Replace(strictApp))
	f.Add(shop + "---\n{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a, namespace: istio-system}, spec: {mtls: {mode: DISABLE}}}")
	f.Add(strings.Replace(shop, "culvert.dev/mesh: enabled", "istio.io/dataplane-mode: none", 1))
	f.Add(strings.Replace(shop, "mode: STRICT", "mode: STRICT\n  portLevelMtls: {80: {mode: DISABLE}}", 1))
	f.Add(strings.Replace(shop, "spec:\n  containers", "spec:\n  hostNetwork: true\n  containers", 1))
	f.Fuzz(func(t *testing.T, text string) {
		src := New("", Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
		for _, text := range []string{shop, text} {
			v := &seen{claims: map[key][]entry{}, now: time.Now()}
			if len(src.force.entries) > 0 {
				src.files["shop.yaml"] = standing{since: v.now}
			}
			v.claim(decode("shop.yaml", []byte(text), nil))
			src.settle(v)
		}
		snap := src.force.builder.Snapshot()
		set := policy.NewSet()
		set.Replace(snap.Policies)
		found := false
		for _, w := range snap.Mesh.Workloads {
			if w.UID != "u1" {
				continue
			}
			if found = true; w.Namespace != "shop" || !w.Meshed || set.Mode(w.Workload(), 80) != policy.Strict {
				t.Errorf("%v, mode %v", w, set.Mode(w.Workload(), 80))
			}
		}
		// Another pod of its name or address may have taken its place.
		if !found && len(snap.Mesh.Workloads) == 0 {
			t.Error("the pod is gone")
		}
	})
}
