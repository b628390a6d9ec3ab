// SPDX-License-Identifier: Apache-2.0

package file

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

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
			c := decode(name, []byte(text))
			for _, err := range c.errs {
				if !strings.HasPrefix(err.Error(), name+": ") {
					t.Errorf("error without file: %v", err)
				}
			}
			objects, errs := merge([]contents{{entries: c.entries}})
			if len(errs) > 0 {
				continue
			}
			snap, err := source.Build(objects, source.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
			if err != nil {
				t.Fatalf("accepted, and yet: %v", err)
			}
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
