// SPDX-License-Identifier: Apache-2.0

package main

import (
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
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

const agentPod = `{metadata: {name: ztunnel-1, namespace: culvert-system, uid: u-z}, spec: {nodeName: node-1, serviceAccountName: ztunnel, hostNetwork: true}, status: {phase: Running}}`

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

// onKubernetes is a CA whose API server knows of shop's web on node-1.
func onKubernetes(t *testing.T) (node, *kubetest.Server) {
	t.Helper()
	dir := t.TempDir()
	api := kubetest.New()
	api.Vouch(vouches)
	namespace, web, _ := strings.Cut(shop, "---")
	api.Set(object[corev1.Namespace](t, namespace), object[corev1.Pod](t, web), object[corev1.Pod](t, agentPod))
	http := httptest.NewServer(api)
	t.Cleanup(http.Close)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	write(t, kubeconfig, string(kubetest.Kubeconfig(http.Listener.Addr().String())))

	addr, metrics := freeAddresses(t)
	cfg, err := parseOnly("-dir", filepath.Join(dir, "ca"), "-kubeconfig", kubeconfig, "-listen", addr, "-metrics-address", metrics, "-dns-name", "ca.test")
	if err != nil {
		t.Fatal(err)
	}
	cfg.log = slog.New(slog.DiscardHandler)
	start(t, cfg)
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
	deadline := time.Now().Add(10 * time.Second)
	for status.Code(n.ask("spiffe://cluster.local/ns/shop/sa/web")) != codes.Unauthenticated {
		if time.Now().After(deadline) {
			t.Fatal("a token of a deleted pod is still good for certificates")
		}
		<-again.C
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
