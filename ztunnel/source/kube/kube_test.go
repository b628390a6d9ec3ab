// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// parse reads one object; tests say what they mean in YAML, as users do.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return o
}

func custom(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return u
}

func namespace(t *testing.T, name, labels string) *corev1.Namespace {
	return parse[corev1.Namespace](t, `{metadata: {name: `+name+`, labels: {`+labels+`}}}`)
}

func pod(t *testing.T, name string, number int) *corev1.Pod {
	return parse[corev1.Pod](t, fmt.Sprintf(`
metadata: {name: %s, namespace: shop, uid: uid-%s, labels: {app: web}, managedFields: [{manager: kubelet}]}
spec: {nodeName: node-1, serviceAccountName: web, containers: [{name: web, image: web:1, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.1.0.%d, podIPs: [{ip: 10.1.0.%d}], hostIP: 192.168.0.1, conditions: [{type: Ready, status: "True"}]}`, name, name, number, number))
}

// cluster is a small one: a namespace in the mesh, a pod and its service.
func cluster(t *testing.T) []kubetest.Object {
	return []kubetest.Object{
		namespace(t, "shop", "culvert.dev/mesh: enabled"),
		parse[corev1.Node](t, `{metadata: {name: node-1, labels: {topology.kubernetes.io/zone: east}}, spec: {podCIDR: 10.1.0.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}`),
		pod(t, "web-1", 1),
		parse[corev1.Service](t, `{metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.7, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}`),
		parse[discoveryv1.EndpointSlice](t, `{metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.1.0.1]}], ports: [{port: 8080}]}`),
		parse[networkingv1.ServiceCIDR](t, `{metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/12]}}`),
	}
}

const (
	peerAuthentications   = "security.istio.io/v1/peerauthentications"
	authorizationPolicies = "security.istio.io/v1/authorizationpolicies"
	networkPolicies       = "networking.k8s.io/v1/networkpolicies"
)

// watched is a source that runs against a server, and what it delivered last.
type watched struct {
	t         *testing.T
	source    *Source
	snapshots chan source.Snapshot
	last      source.Snapshot
	stop      func()
}

func options(s *apiServer) Options {
	return Options{Kubeconfig: s.kubeconfig(), Build: source.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}}
}

func start(t *testing.T, o Options) *watched {
	t.Helper()
	src, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{t: t, source: src, snapshots: make(chan source.Snapshot, 1000)}
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx, func(s source.Snapshot) { w.snapshots <- s }) }()
	stopped := false
	w.stop = func() {
		if cancel(); !stopped {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		stopped = true
	}
	t.Cleanup(w.stop)
	return w
}

// until takes snapshots until one is as it should be.
func (w *watched) until(what string, ok func(source.Snapshot) bool) {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case s := <-w.snapshots:
			if s.Version != w.last.Version+1 {
				w.t.Fatalf("version %d after %d", s.Version, w.last.Version)
			}
			if w.last = s; ok(s) {
				return
			}
		case <-deadline:
			w.t.Fatalf("never: %s; the last snapshot was %+v; %+v", what, w.last, w.source.Stats())
		}
	}
}

// says waits until the source says what is wrong.
func (w *watched) says(want string) {
	w.t.Helper()
	got := ""
	defer func() {
		if w.t.Failed() {
			w.t.Logf("LastError %q", got)
		}
	}()
	await(w.t, "LastError says "+want, func() bool {
		got = w.source.Stats().LastError
		return strings.Contains(got, want) && (want != "" || got == "")
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, 30*time.Second, what, ok)
}

func within(t *testing.T, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// none says that nothing is delivered for a moment.
func (w *watched) none(why string) {
	w.t.Helper()
	select {
	case s := <-w.snapshots:
		w.t.Fatalf("%s, but there was a snapshot: %+v", why, s)
	case <-time.After(300 * time.Millisecond):
	}
}

func names(s source.Snapshot) string {
	var out []string
	for _, w := range s.Mesh.Workloads {
		out = append(out, w.Name)
	}
	return strings.Join(out, " ")
}

func has(s source.Snapshot, name string) bool {
	for _, w := range s.Mesh.Workloads {
		if w.Name == name {
			return true
		}
	}
	return false
}

func TestWhatTheAPIServerSaysBecomesOneSnapshotAfterAnother(t *testing.T) {
	for name, streams := range map[string]bool{"streaming lists": true, "lists": false} {
		t.Run(name, func(t *testing.T) {
			server := startServer(t)
			if !streams {
				server.NoStreams()
			}
			server.Set(cluster(t)...)
			w := start(t, options(server))
			w.until("the first", func(s source.Snapshot) bool { return true })
			pods, services := w.last.Mesh.Workloads, w.last.Mesh.Services
			if len(pods) != 1 || pods[0].UID != "uid-web-1" || !pods[0].Meshed || !pods[0].Ready || fmt.Sprint(pods[0].Ports) != "[{http 8080}]" {
				t.Errorf("workloads %+v", pods)
			}
			if len(services) != 1 || fmt.Sprint(services[0].VIPs, services[0].Ports[0].Port, services[0].Ports[0].Endpoints[0].Addr) != "[10.96.0.7] 80 10.1.0.1:8080" {
				t.Errorf("services %+v", services)
			}
			if got := fmt.Sprint(w.last.Mesh.CIDRs, w.last.Mesh.Nodes); got != "[10.1.0.0/24 10.96.0.0/12] [{node-1  east [192.168.0.1]}]" {
				t.Errorf("CIDRs and nodes %s", got)
			}

			server.Set(pod(t, "web-2", 2))
			w.until("another pod", func(s source.Snapshot) bool { return has(s, "web-2") })
			server.Set(namespace(t, "shop", ""))
			w.until("the label went", func(s source.Snapshot) bool { return !s.Mesh.Workloads[0].Meshed && !s.Mesh.Workloads[1].Meshed })
			server.Delete(pod(t, "web-1", 1))
			w.until("the pod went", func(s source.Snapshot) bool { return names(s) == "web-2" })

			if got := server.Asked("list pods"); streams != (got == 0) {
				t.Errorf("pods were listed %d times, streaming lists %v", got, streams)
			}
			if got := server.AnsweredIn("application/vnd.kubernetes.protobuf"); got < len(builtIn) {
				t.Errorf("%d answers in protobuf", got)
			}
			if stats := w.source.Stats(); stats.LastError != "" || stats.Failures != 0 || stats.Objects != 6 || !stats.Stored.IsZero() {
				t.Errorf("%+v", stats)
			}
		})
	}
}

func TestWithoutChangesNothingIsDelivered(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	w := start(t, options(server))
	w.until("the first", func(source.Snapshot) bool { return true })
	w.none("nothing changed")
}
