// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var (
	td      = spiffeid.RequireTrustDomainFromString("cluster.local")
	options = Options{TrustDomain: td}
	values  = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, spiffeid.ID{})
)

// parse reads one object; tests say what they mean in YAML, as users do.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return o
}

func mustBuild(t *testing.T, o Objects) Snapshot {
	t.Helper()
	s, err := Build(o, options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func onlyWorkload(t *testing.T, text string, namespaces ...*corev1.Namespace) workload.Workload {
	t.Helper()
	s := mustBuild(t, Objects{Pods: []*corev1.Pod{parse[corev1.Pod](t, text)}, Namespaces: namespaces})
	return s.Mesh.Workloads[0].Workload()
}

const fullPod = `
metadata:
  name: web-5d4f8c7b9-abcde
  namespace: shop
  uid: u1
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels: {app: web, version: v2, pod-template-hash: 5d4f8c7b9, culvert.dev/mesh: enabled}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d4f8c7b9, uid: r1, controller: true}]
spec:
  nodeName: node-1
  serviceAccountName: web
  containers:
  - name: web
    ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]
    readinessProbe: {httpGet: {port: http}}
    livenessProbe: {tcpSocket: {port: 8081}}
status:
  phase: Running
  hostIP: 192.168.0.1
  podIP: 10.1.0.2
  podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]
  conditions: [{type: Ready, status: "True"}]
`

func TestAPodBecomesAWorkload(t *testing.T) {
	s := mustBuild(t, Objects{Pods: []*corev1.Pod{parse[corev1.Pod](t, fullPod)}})
	want := workload.Workload{
		UID: "u1", Namespace: "shop", Name: "web-5d4f8c7b9-abcde", Node: "node-1",
		Created:        time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		ServiceAccount: "web", ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"),
		Addrs:  []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00::2")},
		Labels: workload.NewLabels(map[string]string{"app": "web", "version": "v2", "pod-template-hash": "5d4f8c7b9", "culvert.dev/mesh": "enabled"}),
		Meshed: true, Ready: true,
		Ports: []workload.NamedPort{{Name: "http", Port: 8080}}, Declared: []uint16{8080}, ProbePorts: []uint16{8080, 8081},
		Owner: "web", CanonicalName: "web", CanonicalRevision: "v2",
	}
	if diff := cmp.Diff(want, s.Mesh.Workloads[0].Workload(), values); diff != "" {
		t.Error(diff)
	}
	node := workload.Node{Name: "node-1", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.1")}}
	if diff := cmp.Diff([]workload.Node{node}, s.Mesh.Nodes, values); diff != "" {
		t.Errorf("nodes: %s", diff)
	}
}

func TestABarePodGetsTheDefaultsOfKubernetesAndIstio(t *testing.T) {
	w := onlyWorkload(t, `{metadata: {name: lone, namespace: shop, uid: u}}`)
	if w.ServiceAccount != "default" || w.ID.Path() != "/ns/shop/sa/default" {
		t.Errorf("ServiceAccount %q, %v", w.ServiceAccount, w.ID)
	}
	if w.Owner != "lone" || w.CanonicalName != "lone" || w.CanonicalRevision != "latest" {
		t.Errorf("names %+v", w)
	}
	if w.Meshed {
		t.Error("in the mesh without a label")
	}
}

func inMesh(namespace map[string]string, ignore bool) bool {
	in, _ := meshed(namespace, nil, Options{IgnoreIstioLabels: ignore})
	return in
}

// A missing Namespace is not a namespace without a label.
func TestAPodOfAnUnknownNamespaceIsDecidedByItsOwnLabelOrNotAtAll(t *testing.T) {
	for _, c := range []struct {
		labels, rest      string
		meshed, undecided bool
	}{
		{"{}", "", false, true},
		{"{culvert.dev/mesh: perhaps}", "", false, true},
		{"{culvert.dev/mesh: enabled}", "", true, false},
		{"{culvert.dev/mesh: disabled}", "", false, false},
		{"{istio.io/dataplane-mode: none}", "", false, false},
		{"{}", "spec: {hostNetwork: true}", false, false},
	} {
		w := onlyWorkload(t, "metadata: {name: lone, namespace: shop, uid: u, labels: "+c.labels+"}\n"+c.rest)
		if w.Meshed != c.meshed || w.Undecided != c.undecided {
			t.Errorf("labels %s %s: in the mesh %v, undecided %v; want %v, %v", c.labels, c.rest, w.Meshed, w.Undecided, c.meshed, c.undecided)
		}
	}
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if w := onlyWorkload(t, `{metadata: {name: lone, namespace: shop, uid: u}}`, shop); w.Meshed || w.Undecided {
		t.Errorf("a known namespace without a label leaves it open: %+v", w)
	}
}

// The kubelet names a static pod by the hash of its file; the UID of the mirror
// in the API is another, and changes.
func TestAStaticPodHasTheUIDByWhichTheKubeletKnowsIt(t *testing.T) {
	const hash = "kubernetes.io/config.hash: 5d41402abc4b2a76b9719d911017c592"
	for _, c := range []struct {
		annotations, spec string
		uid               string
		static, meshed    bool
	}{
		{"{" + hash + ", kubernetes.io/config.mirror: x}", "{}", "5d41402abc4b2a76b9719d911017c592", true, true},
		{"{" + hash + ", kubernetes.io/config.mirror: x}", "{hostNetwork: true}", "5d41402abc4b2a76b9719d911017c592", true, false},
		{"{" + hash + "}", "{}", "api", false, true}, // no mirror: the annotation is its author's
		{"{kubernetes.io/config.mirror: x}", "{}", "api", false, true},
	} {
		w := onlyWorkload(t, "metadata: {name: etcd-node-1, namespace: shop, uid: api, labels: {culvert.dev/mesh: enabled}, annotations: "+
			c.annotations+"}\nspec: "+c.spec)
		if w.UID != c.uid || w.Static != c.static || w.Meshed != c.meshed {
			t.Errorf("annotations %s: UID %s, static %v, in the mesh %v", c.annotations, w.UID, w.Static, w.Meshed)
		}
	}
}

// A004-15: a pod's label beats its namespace's.
func TestLabelsPutPodsIntoTheMesh(t *testing.T) {
	const ours, istios = MeshLabel, IstioLabel
	for _, c := range []struct {
		name           string
		namespace, pod map[string]string
		want, without  bool // with and without Istio's labels
	}{
		{"nothing", nil, nil, false, false},
		{"namespace enabled", map[string]string{ours: "enabled"}, nil, true, true},
		{"namespace disabled", map[string]string{ours: "disabled"}, nil, false, false},
		{"pod enabled", nil, map[string]string{ours: "enabled"}, true, true},
		{"pod beats namespace, out", map[string]string{ours: "enabled"}, map[string]string{ours: "disabled"}, false, false},
		{"pod beats namespace, in", map[string]string{ours: "disabled"}, map[string]string{ours: "enabled"}, true, true},
		{"namespace ambient", map[string]string{istios: "ambient"}, nil, true, false},
		{"pod ambient", nil, map[string]string{istios: "ambient"}, true, false},
		{"pod none in an ambient namespace", map[string]string{istios: "ambient"}, map[string]string{istios: "none"}, false, false},
		{"namespace none is merely not ambient", map[string]string{istios: "none"}, map[string]string{istios: "ambient"}, true, false},
		{"our label first on a namespace", map[string]string{ours: "disabled", istios: "ambient"}, nil, false, false},
		{"our label first on a pod", nil, map[string]string{ours: "enabled", istios: "none"}, true, true},
		{"pod's none beats namespace's enabled", map[string]string{ours: "enabled"}, map[string]string{istios: "none"}, false, true},
		{"pod's ambient beats namespace's disabled", map[string]string{ours: "disabled"}, map[string]string{istios: "ambient"}, true, false},
		{"pod's disabled beats namespace's ambient", map[string]string{istios: "ambient"}, map[string]string{ours: "disabled"}, false, false},
		{"unheard-of values say nothing", map[string]string{ours: "enabled"}, map[string]string{ours: "yes", istios: "kmesh"}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := Objects{
				Namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: c.namespace}}},
				Pods:       []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Labels: c.pod}}},
			}
			for ignore, want := range map[bool]bool{false: c.want, true: c.without} {
				s, err := Build(objects, Options{TrustDomain: td, IgnoreIstioLabels: ignore})
				if err != nil {
					t.Fatal(err)
				}
				if got := s.Mesh.Workloads[0].Meshed; got != want {
					t.Errorf("ignoring Istio's labels %v: meshed %v, want %v", ignore, got, want)
				}
				if got := s.Mesh.Namespaces["shop"].Meshed; got != inMesh(c.namespace, ignore) {
					t.Errorf("namespace meshed %v", got)
				}
			}
		})
	}
}

func TestPodsThatCannotBeInTheMeshNeverAre(t *testing.T) {
	in := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{MeshLabel: "enabled"}}}
	for name, text := range map[string]string{
		"in the node's network":      `{metadata: {name: p, namespace: shop}, spec: {containers: [], hostNetwork: true}}`,
		"with a sidecar":             `{metadata: {name: p, namespace: shop, annotations: {sidecar.istio.io/status: "{}"}}}`,
		"with a sidecar and a label": `{metadata: {name: p, namespace: shop, labels: {culvert.dev/mesh: enabled}, annotations: {sidecar.istio.io/status: ""}}}`,
	} {
		if w := onlyWorkload(t, text, in); w.Meshed || w.Unsteerable == "" {
			t.Errorf("a pod %s: in the mesh %v, and if not, because %q", name, w.Meshed, w.Unsteerable)
		}
	}
	if w := onlyWorkload(t, `{metadata: {name: p, namespace: shop}}`, in); !w.Meshed {
		t.Error("an ordinary pod is not")
	}
}

func TestAPodWithANetworkStackOfItsOwnIsNotInTheMesh(t *testing.T) {
	in := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{MeshLabel: "enabled"}}}
	secure := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "secure"}, Handler: "kata-qemu"}
	for class, outside := range map[string]bool{
		"kata": true, "kata-clh": true, "kata2": true, "gvisor": true, "io.containerd.runsc.v1": true, "Firecracker": true, "secure": true,
		"nvidia": false, "crun": false, "runc": false, "wasmtime": false, "skatable": false,
	} {
		text := fmt.Sprintf(`{metadata: {name: p, namespace: shop}, spec: {containers: [], runtimeClassName: %s}}`, class)
		s := mustBuild(t, Objects{Namespaces: []*corev1.Namespace{in}, Pods: []*corev1.Pod{parse[corev1.Pod](t, text)},
			RuntimeClasses: []*nodev1.RuntimeClass{secure}})
		if w := s.Mesh.Workloads[0]; w.Meshed == outside || strings.Contains(w.Unsteerable, class) != outside {
			t.Errorf("%s: meshed %v, because %q", class, w.Meshed, w.Unsteerable)
		}
	}
	for _, spec := range []string{"runtimeClassName: kata", "hostNetwork: true"} {
		if w := onlyWorkload(t, `{metadata: {name: p, namespace: bank}, spec: {containers: [], `+spec+`}}`, in); w.Unsteerable != "" {
			t.Errorf("%s: a pod that nobody wants in the mesh is called unsteerable: %s", spec, w.Unsteerable)
		}
	}
}

func TestReadinessAndTheEndOfPods(t *testing.T) {
	for _, c := range []struct {
		name, status      string
		deleted           bool
		ready, terminated bool
	}{
		{"ready", `{phase: Running, conditions: [{type: Ready, status: "True"}]}`, false, true, false},
		{"not ready", `{phase: Running, conditions: [{type: Ready, status: "False"}]}`, false, false, false},
		{"another condition", `{phase: Running, conditions: [{type: Initialized, status: "False"}]}`, false, true, false},
		{"no status", `{}`, false, true, false},
		{"pending", `{phase: Pending}`, false, false, false},
		{"unknown", `{phase: Unknown}`, false, false, false},
		{"being deleted", `{phase: Running, conditions: [{type: Ready, status: "True"}]}`, true, false, false},
		{"succeeded", `{phase: Succeeded, conditions: [{type: Ready, status: "True"}]}`, false, false, true},
		{"failed", `{phase: Failed}`, false, false, true},
	} {
		meta := `{name: p, namespace: shop}`
		if c.deleted {
			meta = `{name: p, namespace: shop, deletionTimestamp: "2026-01-02T03:04:05Z"}`
		}
		w := onlyWorkload(t, "{metadata: "+meta+", status: "+c.status+"}")
		if w.Ready != c.ready || w.Terminated != c.terminated {
			t.Errorf("%s: ready %v, terminated %v", c.name, w.Ready, w.Terminated)
		}
	}
}

func TestProbePortsAreThoseTheKubeletConnectsTo(t *testing.T) {
	w := onlyWorkload(t, `
metadata: {name: p, namespace: shop}
spec:
  initContainers:
  - name: sidecar
    restartPolicy: Always
    ports: [{name: own, containerPort: 7001}, {name: http, containerPort: 7002}]
    startupProbe: {httpGet: {port: own}}
  - name: setup
    ports: [{name: setup, containerPort: 7100}]
    livenessProbe: {tcpSocket: {port: 7100}}
  containers:
  - name: a
    ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9090}, {containerPort: 9191}]
    livenessProbe: {httpGet: {port: http, path: /live}}
    readinessProbe: {grpc: {port: 8090}}
    startupProbe: {tcpSocket: {port: 8080}}
    lifecycle:
      postStart: {httpGet: {port: admin}}
      preStop: {tcpSocket: {port: "8099"}}
  - name: b
    ports: [{name: http, containerPort: 8081}]
    livenessProbe: {httpGet: {port: http}}
    readinessProbe: {httpGet: {port: 80, host: elsewhere.example}}
    startupProbe: {exec: {command: ["true"]}}
    lifecycle: {preStop: {tcpSocket: {port: 8098, host: 192.0.2.1}}, postStart: {exec: {command: ["true"]}}}
  - name: c
    livenessProbe: {httpGet: {port: admin}}
    readinessProbe: {httpGet: {port: 70000}}
`)
	if want := []uint16{7001, 8080, 8081, 8090, 8099, 9090}; !cmp.Equal(w.ProbePorts, want) {
		t.Errorf("probe ports %v, want %v", w.ProbePorts, want)
	}
	foreign := []workload.ForeignProbe{{Host: "elsewhere.example", Port: 80}, {Host: "192.0.2.1", Addr: netip.MustParseAddr("192.0.2.1"), Port: 8098}}
	if diff := cmp.Diff(foreign, w.ForeignProbes, values); diff != "" {
		t.Errorf("foreign probes: %s", diff)
	}
	// The first container of that name has it, and containers come before sidecars.
	if want := []workload.NamedPort{{Name: "admin", Port: 9090}, {Name: "http", Port: 8080}, {Name: "own", Port: 7001}}; !cmp.Equal(w.Ports, want) {
		t.Errorf("named ports %v, want %v", w.Ports, want)
	}
}

func TestOwnersAndCanonicalNamesAreThoseOfIstio(t *testing.T) {
	for _, c := range []struct {
		labels, owner                    string
		wantOwner, wantName, wantVersion string
	}{
		{`{pod-template-hash: abc}`, `{kind: ReplicaSet, name: web-abc, controller: true}`, "web", "web", "latest"},
		{`{}`, `{kind: ReplicaSet, name: web-abc, controller: true}`, "web-abc", "web-abc", "latest"},
		{`{pod-template-hash: abc}`, `{kind: ReplicaSet, name: web-xyz, controller: true}`, "web-xyz", "web-xyz", "latest"},
		{`{}`, `{kind: ReplicaSet, name: web, controller: false}`, "p", "p", "latest"},
		{`{}`, `{kind: StatefulSet, name: db, controller: true}`, "db", "db", "latest"},
		{`{}`, `{kind: Job, name: nightly-29000000, controller: true}`, "nightly", "nightly", "latest"},
		{`{}`, `{kind: Job, name: once-7, controller: true}`, "once-7", "once-7", "latest"},
		{`{deploymentconfig: web}`, `{kind: ReplicationController, name: web-3, controller: true}`, "web", "web", "latest"},
		{`{app: a}`, ``, "p", "a", "latest"},
		{`{app: a, app.kubernetes.io/name: b}`, ``, "p", "b", "latest"},
		{`{app: a, app.kubernetes.io/name: b, service.istio.io/canonical-name: c}`, ``, "p", "c", "latest"},
		{`{version: v1}`, ``, "p", "p", "v1"},
		{`{version: v1, app.kubernetes.io/version: v2}`, ``, "p", "p", "v2"},
		{`{version: v1, app.kubernetes.io/version: v2, service.istio.io/canonical-revision: v3}`, ``, "p", "p", "v3"},
	} {
		w := onlyWorkload(t, `{metadata: {name: p, namespace: shop, labels: `+c.labels+`, ownerReferences: [`+c.owner+`]}}`)
		got := []string{w.Owner, w.CanonicalName, w.CanonicalRevision}
		want := []string{c.wantOwner, c.wantName, c.wantVersion}
		if !cmp.Equal(got, want) {
			t.Errorf("labels %s owner %s: %v, want %v", c.labels, c.owner, got, want)
		}
	}
}

func TestAnIdentityThatCannotBeIsAnError(t *testing.T) {
	pod := parse[corev1.Pod](t, `{metadata: {name: p, namespace: shop}, spec: {containers: [], serviceAccountName: "no/such"}}`)
	if _, err := Build(Objects{Pods: []*corev1.Pod{pod}}, options); err == nil || !strings.Contains(err.Error(), "Pod shop/p") {
		t.Errorf("error %v", err)
	}
}

func TestPoliciesAreCompiledWithTheRootNamespace(t *testing.T) {
	objects := Objects{
		PeerAuthentications: []*PeerAuthentication{parse[PeerAuthentication](t, `
metadata: {name: web, namespace: shop, creationTimestamp: "2026-01-02T03:04:05Z"}
spec: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, "8081": {}}}`)},
		AuthorizationPolicies: []*AuthorizationPolicy{parse[AuthorizationPolicy](t, `
metadata: {name: deny, namespace: shop}
spec: {targetRefs: [{kind: Service, name: web}], action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}`)},
	}
	want := policy.Objects{
		RootNamespace: "istio-system",
		PeerAuthentications: []policy.PeerAuthentication{{
			Object: policy.Object{Namespace: "shop", Name: "web", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
				Selector: policy.Selector{"app": "web"}},
			Mode: policy.Strict, Ports: map[uint16]policy.Mode{8080: policy.Disable, 8081: policy.Unset},
		}},
		AuthorizationPolicies: []policy.AuthorizationPolicy{{
			Object: policy.Object{Namespace: "shop", Name: "deny"}, TargetRefs: true, Action: policy.Deny,
			Warnings: []string{"spec.targetRefs: for waypoints and Services: not enforced at layer 4"},
		}},
	}
	if diff := cmp.Diff(want, mustBuild(t, objects).Policies); diff != "" {
		t.Error(diff)
	}
	s, err := Build(objects, Options{TrustDomain: td, RootNamespace: "mesh"})
	if err != nil || s.Policies.RootNamespace != "mesh" {
		t.Errorf("root namespace %q, %v", s.Policies.RootNamespace, err)
	}
}

func TestPoliciesThatMeanNothingAreErrors(t *testing.T) {
	for spec, want := range map[string]string{
		`{mtls: {mode: strict}}`:    `spec.mtls.mode: "strict": not UNSET, DISABLE, PERMISSIVE or STRICT`,
		`{portLevelMtls: {80: {}}}`: `spec.portLevelMtls: needs spec.selector.matchLabels`,
		`{portLevelMtls: {}}`:       `spec.portLevelMtls: no port`,
		`{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}`:  `spec.portLevelMtls[http]: not a port`,
		`{selector: {matchLabels: {a: b}}, portLevelMtls: {"080": {mode: STRICT}}}`: `spec.portLevelMtls[080]: not a port`,
		`{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {}}}`:             `spec.portLevelMtls[65536]: not a port`,
		`{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: X}}}`:         `spec.portLevelMtls[80].mode: "X"`,
		`{selector: {matchLabels: {app: "*"}}}`:                                     `spec.selector.matchLabels[app]: "*": no label is so`,
	} {
		pa := parse[PeerAuthentication](t, `{metadata: {name: x, namespace: shop}, spec: `+spec+`}`)
		_, err := Build(Objects{PeerAuthentications: []*PeerAuthentication{pa}}, options)
		if err == nil || !strings.Contains(err.Error(), "PeerAuthentication shop/x: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
	for spec, want := range map[string]string{
		`{action: REFUSE}`:                         `spec.action: "REFUSE"`,
		`{selector: {}, targetRef: {name: web}}`:   `spec.selector: not together with targetRefs`,
		`{selector: {matchLabels: {"": "value"}}}`: `spec.selector.matchLabels[]`,
		`{selector: {matchLabels: {app: "db*"}}}`:  `spec.selector.matchLabels[app]: "db*"`,
		`{selector: {matchLabels: {"app ": db}}}`:  `spec.selector.matchLabels[app ]: "db"`,
	} {
		az := parse[AuthorizationPolicy](t, `{metadata: {name: x, namespace: shop}, spec: `+spec+`}`)
		_, err := Build(Objects{AuthorizationPolicies: []*AuthorizationPolicy{az}}, options)
		if err == nil || !strings.Contains(err.Error(), "AuthorizationPolicy shop/x: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
}

func TestACopyOfAPolicySharesNothingWithIt(t *testing.T) {
	p := parse[PeerAuthentication](t, `{metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}}}}`)
	c := p.DeepCopyObject().(*PeerAuthentication)
	if diff := cmp.Diff(p, c); diff != "" {
		t.Error(diff)
	}
	c.Spec.Selector.MatchLabels["a"] = "c"
	if p.Spec.Selector.MatchLabels["a"] != "b" {
		t.Error("the selector is shared")
	}
	a := parse[AuthorizationPolicy](t, `{metadata: {name: x}, spec: {rules: [{to: [{operation: {ports: ["80"]}}]}]}}`)
	a.Unknown = map[string][]string{"spec.rules[0]": {"x"}}
	if diff := cmp.Diff(a, a.DeepCopyObject().(*AuthorizationPolicy)); diff != "" {
		t.Error(diff)
	}
}

func slice(t *testing.T, text string) *discoveryv1.EndpointSlice {
	t.Helper()
	return parse[discoveryv1.EndpointSlice](t, text)
}
