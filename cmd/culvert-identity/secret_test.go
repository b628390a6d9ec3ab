// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

// get returns what a replica answers at its metrics address.
func get(t *testing.T, address, path string) string {
	t.Helper()
	answer, err := http.Get("http://" + address + path)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// awaitReady waits until a replica serves: before, it may answer that it does not know yet
// what runs where.
func awaitReady(t *testing.T, metrics string) {
	t.Helper()
	eventually(t, "ready", func() bool { return get(t, metrics, "/healthz/ready") == "ready\n" })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestTwoReplicasServeByOneSecretAndNodesTrustTheConfigMap(t *testing.T) {
	dir := t.TempDir()
	api := kubetest.New()
	api.Vouch(vouches)
	namespace, web, _ := strings.Cut(shop, "---")
	api.Set(object[corev1.ServiceAccount](t, `{metadata: {name: web, namespace: shop, uid: u-sa}}`),
		object[corev1.Namespace](t, namespace), object[corev1.Pod](t, web), object[corev1.Pod](t, agentPod))
	kubeconfig := filepath.Join(dir, "kubeconfig")
	server := httptest.NewUnstartedServer(api)
	t.Cleanup(server.Close) // after the replicas, whose watches it would wait for
	write(t, kubeconfig, string(kubetest.Kubeconfig(server.Listener.Addr().String())))
	token := nodeToken(t, filepath.Join(dir, "unused"), map[string]any{"name": "ztunnel-1", "uid": "u-z"})

	var nodes []node
	var metrics []string
	for range 2 {
		addr, metric := env.Address(t), env.Address(t)
		cfg, err := parseOnly("-secret", "culvert-system/culvert-ca", "-root-configmap", "culvert-system/culvert-root", "-kubeconfig", kubeconfig,
			"-listen", addr, "-metrics-address", metric, "-dns-name", "ca.test")
		if err != nil {
			t.Fatal(err)
		}
		cfg.log = slog.New(slog.DiscardHandler)
		start(t, cfg)
		nodes = append(nodes, node{t: t, token: token, client: dial(t, addr, filepath.Join(dir, "root.pem"))})
		metrics = append(metrics, metric)
	}
	// Until the API server answers, a replica says what it lacks.
	eventually(t, "not ready, with the reason", func() bool {
		body := get(t, metrics[0], "/healthz/ready")
		return strings.Contains(body, "not ready: Secret culvert-system/culvert-ca: ") && strings.Contains(body, "ConfigMap culvert-system/culvert-root: ")
	})
	server.Start()
	for _, address := range metrics {
		awaitReady(t, address)
	}
	write(t, filepath.Join(dir, "root.pem"), api.Objects("configmaps")[0].(*corev1.ConfigMap).Data["root.pem"])
	for _, n := range nodes {
		if err := n.ask("spiffe://cluster.local/ns/shop/sa/web"); err != nil {
			t.Error(err)
		}
	}
	if body := get(t, metrics[1], "/metrics"); !strings.Contains(body, `culvert_identity_ca_events_total{event="IssuerValidationFailed"} 0`) ||
		!strings.Contains(body, `culvert_identity_expiry_timestamp_seconds{certificate="issuer",sha256="`) {
		t.Errorf("metrics:\n%s", body)
	}
}
