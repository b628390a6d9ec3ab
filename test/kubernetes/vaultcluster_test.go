// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// vaulted is a cluster of a test's own with Vault itself on node1, outside of Kubernetes.
type vaulted struct {
	*running
	address, root, key string
}

// A mesh by its chart whose CA has its issuer from Vault itself: it logs in by the token of its
// ServiceAccount, which Vault has the API server review. Pods talk by certificates that lead
// to Vault's root, whose key is nowhere in Kubernetes; while Vault is sealed, too. A002-21,
// A004-1.
func TestVaultSignsTheIssuerOfACluster(t *testing.T) {
	needRoot(t)
	lastLane.join(t)
	name := sharedName + "-vault"
	fail(t, start(name))
	t.Cleanup(func() { takeDown(t, name) })
	v := &vaulted{running: use(t, name)}
	v.start()
	t.Cleanup(func() {
		if t.Failed() {
			(&charted{v.running}).tell()
			t.Logf("Vault says:\n%s", last((&mesh{v.running}).log("node1", "vault"), 30))
		}
	})
	v.helm("install", "--create-namespace", "--set=identity.vault.address=https://"+v.address, "--set=identity.vault.caConfigMap=vault-ca")
	// The CA waits for what its Vault lets it in by.
	v.letsIn()
	for _, what := range []string{"deployment/culvert-identity", "daemonset/ztunnel"} {
		v.inSystem("rollout", "status", what, "--timeout=4m")
	}
	v.makeWeb()
	v.mustKubectl("label", "namespace", "default", "culvert.dev/mesh=enabled")
	v.awaitEnrolled("default")
	v.hearBothNodes("asker1", "http://web")

	above := v.write("pki/cert/ca", "")["certificate"].(string)
	if root := v.inSystem("get", "configmap", "culvert-root", `--output=jsonpath={.data.root\.pem}`); strings.TrimSpace(root) != strings.TrimSpace(above) {
		t.Errorf("nodes trust\n%s\nwant Vault's root\n%s", root, above)
	}
	var secret struct{ Data map[string]string }
	fail(t, json.Unmarshal([]byte(v.inSystem("get", "secret", "culvert-ca", "--output=json")), &secret))
	if _, there := secret.Data["root.key"]; there || secret.Data["issuer.key"] == "" {
		t.Errorf("the Secret has other keys than the issuer's: %d", len(secret.Data))
	}

	v.write("sys/seal", "{}")
	v.mustKubectl("rollout", "restart", "deployment/web")
	v.mustKubectl("rollout", "status", "deployment/web", "--timeout=2m")
	v.awaitEnrolled("default")
	v.hearBothNodes("asker1", "http://web")
}

// start has Vault run, unsealed, with a root.
func (v *vaulted) start() {
	v.t.Helper()
	programs, err := binaries.Vault(v.t.Context(), ".", io.Discard)
	fail(v.t, err)
	m := &mesh{v.running}
	address := v.mustKubectl("get", "node", "node1", `--output=jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	address, _, _ = strings.Cut(address, " ")
	v.address = address + ":8200"
	fail(v.t, os.MkdirAll(m.dir("node1"), 0o755))
	program, err := os.ReadFile(filepath.Join(programs, "vault"))
	fail(v.t, errors.Join(err, os.WriteFile(m.dir("node1", "vault"), program, 0o755)))
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=vault",
		"-addext", "subjectAltName=IP:"+address, "-keyout", m.dir("node1", "vault.key"), "-out", m.dir("node1", "vault.pem")).CombinedOutput()
	if err != nil {
		v.t.Fatalf("openssl: %v\n%s", err, out)
	}
	v.runOn("node1", "vault", insideMesh+"/vault", "-storage", insideMesh+"/vault-storage", "-listen", v.address,
		"-cert", insideMesh+"/vault.pem", "-key", insideMesh+"/vault.key")
	eventually(v.t, func() error { _, err := v.ask("GET", "sys/seal-status", ""); return err })
	var made struct {
		Keys []string `json:"keys"`
		Root string   `json:"root_token"`
	}
	text, err := v.ask("PUT", "sys/init", `{"secret_shares":1,"secret_threshold":1}`)
	fail(v.t, errors.Join(err, json.Unmarshal([]byte(text), &made)))
	v.key, v.root = made.Keys[0], made.Root
	v.write("sys/unseal", `{"key":"`+v.key+`"}`)
	eventually(v.t, func() error { _, err := v.ask("GET", "sys/mounts", ""); return err })
	v.write("sys/mounts/pki", `{"type":"pki","config":{"max_lease_ttl":"87600h"}}`)
	v.write("pki/root/generate/internal", `{"common_name":"vault root","key_type":"ec","key_bits":256,"ttl":"87600h"}`)
}

// letsIn has Vault know the cluster's ServiceAccounts, and let the CA's do what
// docs/identity.md says.
func (v *vaulted) letsIn() {
	v.t.Helper()
	docs, err := os.ReadFile("../../docs/identity.md")
	fail(v.t, err)
	_, policy, _ := strings.Cut(string(docs), "\n```hcl\n")
	policy, _, _ = strings.Cut(policy, "```\n")
	root, err := os.ReadFile(filepath.Join(cluster.Dir(v.name), "pki", "ca.crt"))
	fail(v.t, err)
	v.inSystem("create", "configmap", "vault-ca", "--from-file=ca.crt="+(&mesh{v.running}).dir("node1", "vault.pem"))
	v.inSystem("create", "serviceaccount", "vault")
	v.mustKubectl("create", "clusterrolebinding", "vault", "--clusterrole=system:auth-delegator", "--serviceaccount=culvert-system:vault")
	api := v.mustKubectl("get", "endpointslices", "--namespace=default", "--selector=kubernetes.io/service-name=kubernetes", "--output=jsonpath={.items[0].endpoints[0].addresses[0]}")
	v.put("sys/policies/acl/culvert", map[string]any{"policy": policy})
	v.put("sys/auth/kubernetes", map[string]any{"type": "kubernetes"})
	v.put("auth/kubernetes/config", map[string]any{"kubernetes_host": "https://" + api + ":6443", "kubernetes_ca_cert": string(root),
		"disable_local_ca_jwt": true, "token_reviewer_jwt": v.inSystem("create", "token", "vault")})
	v.put("auth/kubernetes/role/culvert", map[string]any{"bound_service_account_names": "culvert-identity", "bound_service_account_namespaces": "culvert-system",
		"audience": "vault", "token_policies": "culvert", "token_ttl": "10m"})
}

// put writes a question.
func (v *vaulted) put(path string, question map[string]any) {
	v.t.Helper()
	text, err := json.Marshal(question)
	fail(v.t, err)
	v.write(path, string(text))
}

// write is a request with a question, or without one, and returns what the answer holds.
func (v *vaulted) write(path, question string) map[string]any {
	v.t.Helper()
	method := "POST"
	if question == "" {
		method = "GET"
	}
	text, err := v.ask(method, path, question)
	fail(v.t, err)
	var answer struct{ Data map[string]any }
	if text != "" {
		fail(v.t, json.Unmarshal([]byte(text), &answer))
	}
	return answer.Data
}

// ask is one request, from node1.
func (v *vaulted) ask(method, path, question string) (string, error) {
	args := []string{"curl", "--silent", "--show-error", "--fail-with-body", "--cacert", insideMesh + "/vault.pem", "--request", method, "--header", "X-Vault-Token: " + v.root}
	if question != "" {
		args = append(args, "--data", question)
	}
	text, err := v.tryEnter("node1", append(args, fmt.Sprintf("https://%s/v1/%s", v.address, path))...)
	return text, err
}
