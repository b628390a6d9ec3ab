// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// dnsNames are the DNS names in the certificate that a node gets for shop's web.
func dnsNames(t *testing.T, n node) []string {
	t.Helper()
	chain, err := n.chain(webID)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(chain[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID {
		t.Errorf("URIs %v", leaf.URIs)
	}
	return leaf.DNSNames
}

// A004-17: certificates name the pods that they are for, and the Services whose selector
// these have, by the API server's word. A pod that the node does not run, or the mesh does
// not carry, gives no name, and a Service without a selector neither.
func TestCertificatesNamePodsAndTheirServicesIfThatIsWanted(t *testing.T) {
	const services = `{metadata: {name: NAME, namespace: shop}, spec: {clusterIP: 10.96.0.9, selector: SELECTOR, ports: [{port: 80}]}}`
	for name, wanted := range map[string]bool{"off": false, "on": true} {
		t.Run(name, func(t *testing.T) {
			var args []string
			if wanted {
				args = []string{"-dns-sans"}
			}
			n, api := onKubernetes(t, args...)
			if got := dnsNames(t, n); !wanted && len(got) > 0 || wanted && !slices.Contains(got, "web-1.shop.pod") {
				t.Fatalf("names %v", got)
			}
			if !wanted {
				return
			}
			pod := func(name, more string) *corev1.Pod {
				return object[corev1.Pod](t, `{metadata: {name: `+name+`, namespace: shop, uid: u-`+name+`, labels: {app: web`+more+`}}, spec: {nodeName: node-1, serviceAccountName: web}, status: {phase: Running}}`)
			}
			elsewhere, out := pod("web-3", ""), pod("web-4", `, culvert.dev/mesh: disabled`)
			elsewhere.Spec.NodeName = "node-2"
			api.Set(pod("web-2", ""), elsewhere, out)
			for name, selector := range map[string]string{"front": "{app: web}", "back": "{app: db}", "none": "{}", "both": "{app: web, tier: x}"} {
				api.Set(object[corev1.Service](t, strings.NewReplacer("NAME", name, "SELECTOR", selector).Replace(services)))
			}
			want := []string{"front.shop.svc", "front.shop.svc.cluster.local", "web-1.shop.pod", "web-2.shop.pod"}
			var got []string
			eventually(t, "the names of both pods and of the Service", paced(func() bool {
				got = dnsNames(t, n)
				return slices.Contains(got, "front.shop.svc") && slices.Contains(got, "web-2.shop.pod")
			}))
			if !slices.Equal(got, want) {
				t.Errorf("names %v, want %v", got, want)
			}
		})
	}
}
