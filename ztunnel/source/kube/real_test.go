// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

func gvr(version, kind string) schema.GroupVersionResource {
	parsed, _ := schema.ParseGroupVersion(version)
	plural, _ := meta.UnsafeGuessKindToResource(parsed.WithKind(kind))
	return plural
}

func realPod(name string, number int) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: shop, labels: {app: web}},
 spec: {nodeName: node-1, containers: [{name: web, image: "web:1", ports: [{name: http, containerPort: 8080}]}]},
 status: {phase: Running, podIP: 10.1.0.%d, podIPs: [{ip: 10.1.0.%d}], hostIP: 192.168.0.1, hostIPs: [{ip: 192.168.0.1}], conditions: [{type: Ready, status: "True"}]}}`, name, number, number)
}

const (
	realNamespace = `{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}}`
	realCRD       = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: peerauthentications.security.istio.io},
 spec: {group: security.istio.io, scope: Namespaced, names: {kind: PeerAuthentication, plural: peerauthentications, singular: peerauthentication, listKind: PeerAuthenticationList},
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`
	realPolicy = `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: shop}, spec: {mtls: {mode: STRICT}}}`
)

func (c *control) fill() {
	c.t.Helper()
	for _, text := range []string{
		realNamespace,
		`{apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24]}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}`,
		`{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80, targetPort: 8080}]}}`,
		`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.1.0.1]}], ports: [{name: "", port: 8080, protocol: TCP}]}`,
		realPod("web-1", 1),
	} {
		c.apply(text)
	}
}

func (c *control) options() Options {
	return Options{Kubeconfig: c.kubeconfig, Build: source.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}}
}

func TestARealAPIServerIsFollowed(t *testing.T) {
	c := startControl(t)
	c.fill()
	o := c.options()
	o.State = filepath.Join(t.TempDir(), "workloads")
	w := start(t, o)
	w.until("the first", meshed("web-1"))
	if s := w.last.Mesh; fmt.Sprint(s.CIDRs, s.Nodes) != "[10.1.0.0/24 10.96.0.0/16] [{node-1   [192.168.0.1]}]" {
		t.Errorf("CIDRs and nodes %v %v", s.CIDRs, s.Nodes)
	}
	w.until("the service", func(s source.Snapshot) bool {
		for _, svc := range s.Mesh.Services {
			if svc.Name != "web" || fmt.Sprint(svc.VIPs) != "[10.96.0.7]" || len(svc.Ports) != 1 {
				continue
			}
			if p := svc.Ports[0]; p.Port == 80 && len(p.Endpoints) == 1 && p.Endpoints[0].Addr == netip.MustParseAddrPort("10.1.0.1:8080") {
				return true
			}
		}
		c.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: other}}`) // for another snapshot
		return false
	})

	// Policies: their kind comes, and goes with its objects.
	c.apply(realCRD)
	c.apply(realPolicy)
	w.until("a policy", inForce("strict STRICT map[]\n"))
	c.delete(realCRD)
	w.until("it went with its kind", inForce(""))
	w.says("")

	// The API server is killed, and comes back.
	c.killAPIServer()
	w.says("connection refused")
	w.none("the API server is away")
	c.startAPIServer()
	w.says("")
	c.apply(realPod("web-2", 2))
	w.until("another pod", meshed("web-1", "web-2"))
	c.delete(realPod("web-1", 1))
	w.until("a pod went", meshed("web-2"))
	w.stop()

	// It is away when we start.
	c.killAPIServer()
	w = start(t, o)
	w.until("the stored state", meshed("web-2"))
	c.startAPIServer()
	c.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: disabled}}}`)
	w.until("live again, and the label says no", func(s source.Snapshot) bool { return names(s) == "web-2" && !s.Mesh.Workloads[0].Meshed })
}

func TestARealEtcdThatIsRestoredIsListedAnew(t *testing.T) {
	c := startControl(t)
	c.fill()
	c.kill()
	backup := filepath.Join(c.dir, "backup")
	if err := os.CopyFS(backup, os.DirFS(c.etcdIn)); err != nil {
		t.Fatal(err)
	}
	c.start()
	for i := range 50 { // so that what is restored is far behind
		c.apply(realPod(fmt.Sprintf("late-%d", i), 2+i))
	}
	w := start(t, c.options())
	w.until("all of them", func(s source.Snapshot) bool { return len(s.Mesh.Workloads) == 51 })
	c.apply(realPod("last", 99)) // the watch of pods was of use: the reflector would go on with it
	w.until("one more", func(s source.Snapshot) bool { return has(s, "last") })

	c.kill()
	c.etcdIn = backup
	c.start()
	w.until("as it was then", meshed("web-1"))
	c.apply(realPod("web-2", 2))
	w.until("and what comes", meshed("web-1", "web-2"))
}
