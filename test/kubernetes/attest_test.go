// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// The pods of the story: two that speak for their nodes, one of another ServiceAccount
// beside them, and one in the mesh on node1.
const attestPods = `
apiVersion: v1
kind: Namespace
metadata: {name: culvert-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: attested, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ztunnel, namespace: culvert-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: culvert-identity, namespace: culvert-system}
---
apiVersion: v1
kind: Pod
metadata: {name: agent1, namespace: culvert-system}
spec: {nodeName: node1, serviceAccountName: ztunnel, terminationGracePeriodSeconds: 1, containers: [{name: app, image: "localhost/podapp:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent2, namespace: culvert-system}
spec: {nodeName: node2, serviceAccountName: ztunnel, terminationGracePeriodSeconds: 1, containers: [{name: app, image: "localhost/podapp:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: culvert-system}
spec: {nodeName: node1, serviceAccountName: culvert-identity, terminationGracePeriodSeconds: 1, containers: [{name: app, image: "localhost/podapp:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: attested}
spec: {nodeName: node1, terminationGracePeriodSeconds: 1, containers: [{name: app, image: "localhost/podapp:1"}]}
`

// A CA on node1, with the role that it ships with and no other right.
type authority struct{ *running }

func TestTheCAServesOnlyTheTokenOfALivePodForItsOwnNode(t *testing.T) {
	a := startAuthority(t)
	agent := func(pod string) string { return a.token("ztunnel", "Pod", pod, "culvert-identity") }
	first := agent("agent1")
	eventually(t, func() error { return a.check(first) })
	if err := a.certificate(first); err != nil {
		t.Errorf("agent1 for what runs on its node: %v", err)
	}

	a.refuses(a.check(a.token("ztunnel", "Pod", "agent1", "istio-ca")), "token_audience_wrong")
	a.refuses(a.check(a.token("culvert-identity", "Pod", "other", "culvert-identity")), "account_not_trusted")
	a.refuses(a.check(a.token("ztunnel", "Node", "node1", "culvert-identity")), "token_pod_missing")
	a.refuses(a.certificate(agent("agent2")), "not_placed")
	a.refuses(a.check(first[:len(first)-8]+"AAAAAAAA"), "token_refused")

	a.mustKubectl("delete", "pod", "agent1", "--namespace=culvert-system", "--timeout=60s")
	start := time.Now()
	eventually(t, func() error {
		if a.check(first) == nil {
			return errors.New("a token of a deleted pod is still good")
		}
		return nil
	})
	t.Logf("refused %v after its pod was gone", time.Since(start).Round(time.Millisecond))
	a.refuses(a.check(first), "token_pod_gone")
}

func startAuthority(t *testing.T) *authority {
	a := &authority{useShared(t)}
	dir := filepath.Join(cluster.Dir(a.name), "node1", "kubernetes", "attest")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the CA's log:\n%s", last(filepath.Join(dir, "..", "mesh", "culvert-identity.log"), 30))
		}
		_, _ = a.kubectl("delete", "namespace", "attested", "culvert-system", "--wait=false")
		a.enter("node1", "rm", "-rf", "/etc/kubernetes/attest", insideMesh)
	})
	eventually(t, func() error {
		_, err := a.apply(attestPods)
		return err
	})
	_, err := a.apply(shippedRole(t, "culvert-identity"))
	fail(t, err)
	a.mustKubectl("wait", "--for=condition=Ready", "pod", "--all", "--namespace=culvert-system", "--timeout=60s")
	a.mustKubectl("wait", "--for=condition=Ready", "pod", "--all", "--namespace=attested", "--timeout=60s")

	fail(t, os.MkdirAll(dir, 0o755))
	admin, err := os.ReadFile(filepath.Join(cluster.Dir(a.name), "pki", "admin.kubeconfig"))
	fail(t, err)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	fail(t, os.WriteFile(kubeconfig, admin, 0o600))
	own := a.mustKubectl("create", "token", "culvert-identity", "--namespace=culvert-system")
	a.mustKubectl("config", "set-credentials", "ca", "--token="+own, "--kubeconfig="+kubeconfig)
	a.mustKubectl("config", "set-context", "--current", "--user=ca", "--kubeconfig="+kubeconfig)
	program, err := os.ReadFile(filepath.Join(buildMesh(t), "culvert-identity"))
	fail(t, err)
	fail(t, os.WriteFile(filepath.Join(dir, "culvert-identity"), program, 0o755))
	a.runOn("node1", "culvert-identity", "/etc/kubernetes/attest/culvert-identity", "-dir", "/etc/kubernetes/attest/ca",
		"-kubeconfig", "/etc/kubernetes/attest/kubeconfig", "-node-daemonset", "*")
	eventually(t, func() error {
		_, err := a.tryEnter("node1", "curl", "--silent", "--fail-with-body", "http://127.0.0.1:15014/healthz/ready")
		return err
	})
	return a
}

// apply gives text to kubectl.
func (a *authority) apply(text string) (string, error) {
	path := filepath.Join(a.t.TempDir(), "objects.yaml")
	fail(a.t, os.WriteFile(path, []byte(text), 0o600))
	return a.kubectl("apply", "--filename="+path)
}

// shippedRole is what of the manifests gives a program its rights in the cluster.
func shippedRole(t *testing.T, program string) string {
	text, err := os.ReadFile("../../deploy/manifests/culvert.yaml")
	fail(t, err)
	var parts []string
	for part := range strings.SplitSeq(string(text), "\n---") {
		if strings.Contains(part, "\nkind: ClusterRole") && strings.Contains(part, "\n  name: "+program+"\n") {
			parts = append(parts, part)
		}
	}
	if len(parts) != 2 {
		t.Fatalf("%d ClusterRoles and bindings of %s, want one each", len(parts), program)
	}
	return strings.Join(parts, "\n---")
}

func (a *authority) token(account, kind, name, audience string) string {
	a.t.Helper()
	return a.mustKubectl("create", "token", account, "--namespace=culvert-system", "--audience="+audience,
		"--bound-object-kind="+kind, "--bound-object-name="+name)
}

// check asks whether the CA would sign for the token's node.
func (a *authority) check(token string) error {
	return a.call(token, "culvert.identity.v1.NodeService/Check", nil)
}

// certificate asks for one for the pod on node1.
func (a *authority) certificate(token string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(a.t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	fail(a.t, err)
	id := field(1, []byte("ImpersonatedIdentity"), field(2, field(3, []byte("spiffe://cluster.local/ns/attested/sa/default"))))
	return a.call(token, "istio.v1.auth.IstioCertificateService/CreateCertificate",
		field(1, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), field(4, field(1, id))))
}

// field is one of protobuf, of bytes, with what follows it.
func field(number byte, value []byte, more ...[]byte) []byte {
	out := append([]byte{number<<3 | 2}, binary.AppendUvarint(nil, uint64(len(value)))...)
	out = append(out, value...)
	for _, m := range more {
		out = append(out, m...)
	}
	return out
}

// call is gRPC by hand: the test imports none of the programs. An error is the status.
func (a *authority) call(token, method string, message []byte) error {
	a.t.Helper()
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	body := filepath.Join(cluster.Dir(a.name), "node1", "kubernetes", "attest", "request")
	fail(a.t, os.WriteFile(body, frame, 0o600))
	headers, err := a.tryEnter("node1", "curl", "--silent", "--show-error", "--insecure", "--http2", "--dump-header", "-", "--output", "/dev/null",
		"--header", "content-type: application/grpc", "--header", "te: trailers", "--header", "authorization: Bearer "+token,
		"--data-binary", "@/etc/kubernetes/attest/request", "https://127.0.0.1:15012/"+method)
	if err != nil {
		return err
	}
	if !strings.Contains(headers, "grpc-status: 0") {
		return errors.New(headers)
	}
	return nil
}

// refuses wants that the CA refused, and that its log and its metric say why.
func (a *authority) refuses(err error, word string) {
	a.t.Helper()
	if err == nil {
		a.t.Errorf("want %s, and it was served", word)
		return
	}
	log := a.enter("node1", "cat", insideMesh+"/culvert-identity.log")
	if !strings.Contains(log, `"refusal":"`+word+`"`) {
		a.t.Errorf("no line of the log says %s: %v", word, err)
	}
	metrics := a.enter("node1", "curl", "--silent", "http://127.0.0.1:15014/metrics")
	if !strings.Contains(metrics, fmt.Sprintf("culvert_identity_refusals_total{reason=%q} ", word)) {
		a.t.Errorf("no metric says %s: %v", word, err)
	}
}

func fail(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
