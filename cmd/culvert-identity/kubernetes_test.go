// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/ledger"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

const agentPod = `{metadata: {name: ztunnel-1, namespace: culvert-system, uid: u-z, ownerReferences: [` + daemon + `]}, spec: {nodeName: node-1, serviceAccountName: ztunnel, hostNetwork: true}, status: {phase: Running}}`

// vouches is an API server that takes every token for that of ztunnel's pod on node-1.
func vouches(spec authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: spec.Audiences,
		User: authenticationv1.UserInfo{Username: "system:serviceaccount:culvert-system:ztunnel", Extra: map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {"ztunnel-1"}, "authentication.kubernetes.io/pod-uid": {"u-z"},
			"authentication.kubernetes.io/node-name": {"node-1"},
		}},
	}
}

func object[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.Unmarshal([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

// paced asks ten times a second at most: a node may ask for one identity 30 times at once,
// and then once in 5 s.
func paced(ok func() bool) func() bool {
	var last time.Time
	return func() bool {
		if time.Since(last) < 100*time.Millisecond {
			return false
		}
		last = time.Now()
		return ok()
	}
}

// onKubernetes is a CA whose API server knows of shop's web on node-1.
func onKubernetes(t *testing.T, args ...string) (node, *kubetest.Server) {
	t.Helper()
	dir := t.TempDir()
	api := kubetest.New()
	api.Vouch(vouches)
	namespace, web, _ := strings.Cut(shop, "---")
	api.Set(object[corev1.ServiceAccount](t, `{metadata: {name: web, namespace: shop, uid: u-sa}}`), object[corev1.Namespace](t, namespace), object[corev1.Pod](t, web), object[corev1.Pod](t, agentPod))
	http := httptest.NewServer(api)
	t.Cleanup(http.Close)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	write(t, kubeconfig, string(kubetest.Kubeconfig(http.Listener.Addr().String())))

	addr, metrics := env.Address(t), env.Address(t)
	cfg, err := parseOnly(append([]string{"-dir", filepath.Join(dir, "ca"), "-kubeconfig", kubeconfig, "-listen", addr, "-metrics-address", metrics, "-dns-name", "ca.test"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	cfg.log = slog.New(slog.DiscardHandler)
	start(t, cfg)
	awaitReady(t, metrics)
	token := nodeToken(t, filepath.Join(dir, "unused"), map[string]any{"name": "ztunnel-1", "uid": "u-z"})
	return node{t: t, token: token, client: dial(t, addr, filepath.Join(cfg.dir, "root.pem"))}, api
}

func TestANodeIsServedByTheAPIServersWord(t *testing.T) {
	n, api := onKubernetes(t)
	if err := n.ask("spiffe://cluster.local/ns/shop/sa/web"); err != nil {
		t.Error(err)
	}
	if err := n.ask("spiffe://cluster.local/ns/shop/sa/db"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a ServiceAccount that does not run there: %v", err)
	}
	if n := api.Asked("stream nodes") + api.Asked("list nodes") + api.Asked("stream services") + api.Asked("stream security.istio.io/v1/peerauthentications"); n != 0 {
		t.Errorf("asked %d times for what does not place pods", n)
	}
	api.Delete(object[corev1.Pod](t, agentPod))
	api.Vouch(func(authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
		return authenticationv1.TokenReviewStatus{Error: "service account token has been invalidated"}
	})
	// What was said of it before counts until the CA hears of the end.
	again := time.NewTicker(50 * time.Millisecond) // a node may ask 50 times a second
	defer again.Stop()
	deadline := time.Now().Add(30 * time.Second)
	for status.Code(n.ask("spiffe://cluster.local/ns/shop/sa/web")) != codes.Unauthenticated {
		if time.Now().After(deadline) {
			t.Fatal("a token of a deleted pod is still good for certificates")
		}
		<-again.C
	}
}

// What is issued is in a ledger whose checkpoint is in the ConfigMap a moment later, by the
// replica's name.
func TestTheLedgersCheckpointIsKeptInAConfigMap(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ledger")
	n, api := onKubernetes(t, "-ledger", dir, "-ledger-configmap", "culvert-system/culvert-ledger-checkpoint")
	if err := n.ask("spiffe://cluster.local/ns/shop/sa/web"); err != nil {
		t.Error(err)
	}
	var kept map[string]string
	for deadline := time.Now().Add(time.Minute); kept == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is no checkpoint")
		}
		for _, o := range api.Objects("configmaps") {
			if o.GetNamespace()+"/"+o.GetName() == "culvert-system/culvert-ledger-checkpoint" {
				kept = o.(*corev1.ConfigMap).Data
			}
		}
	}
	anchors, err := ledger.ReadAnchors(kept)
	if err != nil || len(anchors) != 1 || anchors[0].Signature == nil {
		t.Fatalf("%q: %v", kept, err)
	}
	report, err := ledger.Verify(ledger.Question{Dir: dir, Anchors: anchors}, nil)
	if err != nil || len(report.Faults) > 0 || report.Chains[0].ID != anchors[0].Chain {
		t.Errorf("%+v, %v", report, err)
	}
}

const daemon = "{apiVersion: apps/v1, kind: DaemonSet, name: ztunnel, uid: u-d, controller: true}"

// C.3, 2: who may make pods in the CA's namespace may give them ztunnel's ServiceAccount.
// None but those of ztunnel's DaemonSet speaks for its node.
func TestAPodThatOnlyHasZtunnelsServiceAccountIsRefused(t *testing.T) {
	const id = "spiffe://cluster.local/ns/shop/sa/web"
	stranger := object[corev1.Pod](t, strings.Replace(agentPod, daemon, "", 1))
	n, api := onKubernetes(t)
	api.Set(stranger)
	var err error
	eventually(t, "the pod is refused once it is heard of", paced(func() bool {
		err = n.ask(id)
		return status.Code(err) == codes.Unauthenticated
	}))
	if !strings.Contains(err.Error(), "does not speak for its node: it is of no DaemonSet, want ztunnel") {
		t.Error(err)
	}
	n, api = onKubernetes(t, "-node-daemonset", "*")
	api.Set(stranger)
	if err := n.ask(id); err != nil {
		t.Errorf("where it does not matter: %v", err)
	}
}

func TestWhichPodsSpeakForTheirNode(t *testing.T) {
	for name, test := range map[string]struct{ owner, flag, want string }{
		"ztunnel's":                    {daemon, "ztunnel", ""},
		"one of two":                   {daemon, "agent,ztunnel", ""},
		"nobody's":                     {"", "ztunnel", "it is of no DaemonSet, want ztunnel"},
		"nobody's, where all do":       {"", "*", ""},
		"a Deployment's of that name":  {strings.Replace(daemon, "DaemonSet", "ReplicaSet", 1), "ztunnel", "it is of no DaemonSet, want ztunnel"},
		"another DaemonSet's":          {strings.Replace(daemon, "ztunnel", "ztunnel2", 1), "ztunnel,agent", "it is of the DaemonSet ztunnel2, want ztunnel or agent"},
		"that of another API":          {strings.Replace(daemon, "apps/v1", "apps.kruise.io/v1alpha1", 1), "ztunnel", "it is of no DaemonSet, want ztunnel"},
		"its, which does not control":  {strings.Replace(daemon, ", controller: true", "", 1), "ztunnel", "it is of no DaemonSet, want ztunnel"},
		"its name, with no controller": {strings.Replace(agentPod, "ztunnel-1", "ztunnel", 1), "ztunnel", "it is of no DaemonSet, want ztunnel"},
	} {
		cfg, err := parse("-node-daemonset", test.flag)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(agentPod, daemon, test.owner, 1)
		if strings.HasPrefix(test.owner, "{metadata") {
			text = strings.Replace(test.owner, daemon, "", 1)
		}
		snapshot, err := source.Build(source.Objects{Pods: []*corev1.Pod{object[corev1.Pod](t, text)}}, source.Options{TrustDomain: cfg.trustDomain})
		if err != nil {
			t.Fatal(err)
		}
		if all := cfg.agents(snapshot.Mesh); len(all) != 1 || all[0].Foreign != test.want {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

// C.3, 2: a Node that was made anew is another, though the token names it.
func TestATokenOfANodeThatWasMadeAnewIsRefused(t *testing.T) {
	const id = "spiffe://cluster.local/ns/shop/sa/web"
	n, api := onKubernetes(t)
	api.Vouch(func(spec authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
		s := vouches(spec)
		s.User.Extra["authentication.kubernetes.io/node-uid"] = authenticationv1.ExtraValue{"u-former"}
		return s
	})
	api.Set(object[corev1.Node](t, `{metadata: {name: node-1, uid: u-next}}`))
	if err := n.ask(id); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "the one of that name has the UID u-next") {
		t.Errorf("the former: %v", err)
	}
	api.Set(object[corev1.Node](t, `{metadata: {name: node-1, uid: u-former}}`))
	if err := n.ask(id); err != nil {
		t.Errorf("the node itself: %v", err)
	}
}

// Root on a node can make a mirror pod in any namespace. It must not get that
// namespace's default ServiceAccount by it.
func TestANodeGetsNoIdentityByAMirrorPod(t *testing.T) {
	n, api := onKubernetes(t)
	api.Set(
		object[corev1.Namespace](t, `{metadata: {name: payments}}`),
		object[corev1.Pod](t, `{metadata: {name: forged, namespace: payments, uid: u-f, labels: {culvert.dev/mesh: enabled},
  annotations: {kubernetes.io/config.mirror: claimed}}, spec: {nodeName: node-1}, status: {phase: Running, podIP: 10.0.0.66}}`),
	)
	if err := n.ask("spiffe://cluster.local/ns/payments/sa/default"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("payments/default on a node where only a mirror pod is: %v", err)
	}
}

// What a deleted ServiceAccount was, its pods are not any more.
func TestAServiceAccountThatIsGoneHasNoIdentity(t *testing.T) {
	n, api := onKubernetes(t)
	const id = "spiffe://cluster.local/ns/shop/sa/web"
	if err := n.ask(id); err != nil {
		t.Fatal(err)
	}
	api.Delete(object[corev1.ServiceAccount](t, `{metadata: {name: web, namespace: shop}}`))
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(30 * time.Second); status.Code(n.ask(id)) != codes.PermissionDenied; <-again.C {
		if time.Now().After(deadline) {
			t.Fatal("it is signed for, still")
		}
	}
	api.Set(object[corev1.ServiceAccount](t, `{metadata: {name: web, namespace: shop, uid: u-new}}`))
	for range 3 { // also before the watch tells: it is asked for
		if err := n.ask(id); err != nil {
			t.Errorf("made anew: %v", err)
		}
	}
}

// A node in quarantine gets nothing, as soon as the ConfigMap says so, and also once the
// ConfigMap is gone or nobody understands it.
func TestTheDenySetOfAConfigMap(t *testing.T) {
	n, api := onKubernetes(t, "-deny-configmap", "culvert-system/culvert-deny")
	const id = "spiffe://cluster.local/ns/shop/sa/web"
	refused := func() bool { return status.Code(n.ask(id)) == codes.PermissionDenied }
	set := func(text string) {
		api.Set(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "culvert-system", Name: "culvert-deny"}, Data: map[string]string{"deny.yaml": text}})
	}
	if err := n.ask(id); err != nil {
		t.Fatalf("there is no ConfigMap: %v", err)
	}
	set("- node: node-1\n  reason: stolen\n")
	eventually(t, "node-1 is denied", paced(refused))
	for name, change := range map[string]func(){
		"nonsense": func() { set("{") }, "nothing": func() { set("") },
		"no ConfigMap": func() {
			api.Delete(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "culvert-system", Name: "culvert-deny"}})
		},
	} {
		change()
		seen := api.Asked("get configmaps")
		eventually(t, name+" was seen", func() bool { return api.Asked("get configmaps") > seen })
		if !refused() {
			t.Errorf("%s: the node is let in again", name)
		}
	}
	set("[]")
	eventually(t, "node-1 is let in again", paced(func() bool { return n.ask(id) == nil }))
}

// Whoever may delete the ConfigMap takes nothing out of the set, also not by a restart.
func TestADenySetThatWasDeletedIsNotEmptyAtTheNextStart(t *testing.T) {
	api := kubetest.New()
	http := httptest.NewServer(api)
	t.Cleanup(http.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, kubeconfig, string(kubetest.Kubeconfig(http.Listener.Addr().String())))
	configMap := func(name, key, text string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "culvert-system", Name: name}, Data: map[string]string{key: text}}
	}
	// run is one start of the CA, until is holds of its set.
	run := func(what string, is func(set *deny.Set) bool) {
		t.Helper()
		cfg := &config{log: slog.New(slog.DiscardHandler), kubeconfig: kubeconfig, denyConfigMap: "culvert-system/culvert-deny", configMap: "culvert-system/culvert-root"}
		denied, err := cfg.denials(nil)
		if err != nil {
			t.Fatal(err)
		}
		set := denied.set
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- denied.run(ctx) }()
		defer func() { cancel(); <-done }()
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for deadline := time.Now().Add(30 * time.Second); !is(set); <-again.C {
			if time.Now().After(deadline) {
				t.Fatalf("not within 30 s: %s; %v", what, set.Unknown())
			}
		}
	}
	known := func(set *deny.Set) bool { return set.Unknown() == nil }
	api.Set(configMap("culvert-root", "root.pem", ""))
	run("there never was one", known)
	set := configMap("culvert-deny", "deny.yaml", "- node: node-1\n")
	api.Set(set)
	run("it is remembered", func(s *deny.Set) bool { return known(s) && api.Asked("update configmaps") > 0 })
	api.Delete(set)
	run("it is missed", func(s *deny.Set) bool {
		err := s.Unknown()
		return err != nil && strings.Contains(err.Error(), "culvert-root says by culvert.dev/had-configmap")
	})
	api.Set(configMap("culvert-deny", "deny.yaml", "[]"))
	run("it is written again", known)
}

// The status of policies is nothing that the CA's readiness waits for: it is ready before
// the API server has Leases at all.
func TestTheCAWritesTheStatusOfPolicies(t *testing.T) {
	n, api := onKubernetes(t, "-policy-status", "culvert-system/policies", "-root-namespace", "mesh")
	if err := n.ask("spiffe://cluster.local/ns/shop/sa/web"); err != nil {
		t.Error(err)
	}
	const resource = "security.istio.io/v1/peerauthentications"
	api.Offer(resource)
	api.Set(&unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": map[string]any{"namespace": "mesh", "name": "web"},
		"spec": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "web"}}},
	}})
	api.Offer("coordination.k8s.io/v1/leases")
	eventually(t, "its selector is said to be ignored in the root namespace", func() bool {
		status := fmt.Sprint(api.Objects(resource)[0].(*unstructured.Unstructured).Object["status"])
		return strings.Contains(status, "type:ZtunnelAccepted") && strings.Contains(status, "an object of the root namespace that has one is ignored")
	})
}
