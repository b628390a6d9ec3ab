// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// cluster answers for lists by their paths and, behind the first page, by what stands in
// "continue".
type cluster map[string]string

func (c cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, there := c[r.URL.Path+r.URL.Query().Get("continue")]
	if !there {
		w.WriteHeader(http.StatusNotFound)
		text = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}`
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(text)) // a client that went is no matter
}

// shop is a cluster with two pods on two pages, one of which has a field that is newer
// than we, and a policy for one of them.
func shop() cluster {
	return cluster{
		"/api/v1/namespaces": `{"kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": [
			{"metadata": {"name": "shop", "labels": {"culvert.dev/mesh": "enabled"}}}]}`,
		"/api/v1/pods": `{"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": "+", "remainingItemCount": 1}, "items": [
			{"metadata": {"name": "db", "namespace": "shop", "uid": "u1", "labels": {"app": "db"}}, "spec": {"gpus": 2, "containers": [{"name": "c"}]}}]}`,
		"/api/v1/pods+": `{"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [
			{"metadata": {"name": "web", "namespace": "shop", "uid": "u2", "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]}}]}`,
		"/api/v1/services":                           `{"kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": []}`,
		"/api/v1/serviceaccounts":                    `{"kind": "ServiceAccountList", "apiVersion": "v1", "metadata": {}, "items": []}`,
		"/apis/networking.k8s.io/v1/networkpolicies": `{"kind": "NetworkPolicyList", "apiVersion": "networking.k8s.io/v1", "metadata": {}, "items": []}`,
		"/apis/security.istio.io/v1beta1/authorizationpolicies": `{"kind": "AuthorizationPolicyList", "apiVersion": "security.istio.io/v1beta1", "metadata": {}, "items": [
			{"kind": "AuthorizationPolicy", "apiVersion": "security.istio.io/v1beta1", "metadata": {"name": "web", "namespace": "shop"},
			 "spec": {"selector": {"matchLabels": {"app": "web"}}, "rules": [{"to": [{"operation": {"ports": ["8080"]}}]}]}}]}`,
	}
}

// Without an argument lint reads the API server, whose CustomResourceDefinitions may be of
// an older version or missing.
func TestLintReadsTheAPIServer(t *testing.T) {
	k := shop()
	o := operator{t, clitest.Kubeconfig(t, k, t.TempDir())}
	if got := o.must(exitOK, "policy", "lint"); !strings.HasPrefix(got, "1 policies: 0 errors, 0 warnings, 0 infos\n") {
		t.Errorf("got %q", got)
	}
	got := o.must(exitOK, "policy", "lint", "--upgrade")
	if !strings.HasPrefix(got, "AuthorizationPolicy shop/web\ni lets-in: spec.rules[0]: shop/web refused everybody; now it lets in: ports 8080\n") {
		t.Errorf("got %q", got)
	}
	k["/api/v1/namespaces"] = strings.Replace(k["/api/v1/namespaces"], "enabled", "enable", 1)
	if got := o.must(exitWarnings, "policy", "lint"); !strings.HasPrefix(got, "Namespace shop\n× mesh-label: ") {
		t.Errorf("got %q", got)
	}
	delete(k, "/api/v1/pods+")
	if got := o.must(exitFail, "policy", "lint"); !strings.HasPrefix(got, "culvert: read /api/v1/pods: ") {
		t.Errorf("the second page is missing, and it says %q", got)
	}
}

// A pod of the second page counts like one of the first.
func TestLintReadsEveryPage(t *testing.T) {
	k := shop()
	k["/api/v1/pods+"] = strings.Replace(k["/api/v1/pods+"], `"app": "web"`, `"app": "wbe"`, 1)
	o := operator{t, clitest.Kubeconfig(t, k, t.TempDir())}
	if got := o.must(exitOK, "policy", "lint"); !strings.Contains(got, "selects-nobody: spec.selector.matchLabels: no pod of namespace shop has these labels") {
		t.Errorf("got %q", got)
	}
}

// A principal of the mesh's own trust domain is no mistake, whatever that is called.
func TestLintGoesByTheTrustDomainOfTheMesh(t *testing.T) {
	policies := "/apis/security.istio.io/v1beta1/authorizationpolicies"
	of := func(domain string) cluster {
		k := shop()
		k[policies] = strings.Replace(k[policies], `"rules": [{"to"`, `"rules": [{"from": [{"source": {"principals": ["`+domain+`/ns/shop/sa/db"]}}], "to"`, 1)
		return k
	}
	mesh := &clitest.Kubernetes{}
	mesh.Pod("culvert-system", "ztunnel-1", "ztunnel", "n1", true, map[string]string{"15000": clitest.Serve(t, clitest.Ztunnel{Node: "n1", TrustDomain: "prod"})})
	federated := &clitest.Kubernetes{}
	says := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"trustDomain": "prod", "federation": {"domains": [{"trustDomain": "other.example"}]}}`)
	})
	federated.Pod("culvert-system", "ca-1", "culvert-identity", "n1", true, map[string]string{"15013": clitest.Serve(t, says)})
	objects := of("other.example")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/namespaces/culvert-system/") {
			federated.ServeHTTP(w, r)
			return
		}
		objects.ServeHTTP(w, r)
	})
	o := operator{t, clitest.Kubeconfig(t, h, t.TempDir())}
	for _, row := range []struct {
		args  []string
		found bool
	}{{nil, false}, {[]string{"--federated", "third.example"}, true}, {[]string{"--federated", ""}, true}} {
		if _, stdout, stderr := o.run(append([]string{"policy", "lint"}, row.args...)...); strings.Contains(stdout, "other-trust-domain") != row.found {
			t.Errorf("%q of a CA that is federated: %s%s", row.args, stdout, stderr)
		}
	}
	for _, row := range []struct {
		domain  string
		running bool
		args    []string
		found   bool // as of another trust domain
		says    string
	}{
		{"prod", true, nil, false, ""},
		{"cluster.local", true, nil, true, ""},
		{"prod", true, []string{"--trust-domain", "cluster.local"}, true, ""},
		{"cluster.local", false, nil, false, "the mesh does not say its trust domain, which is taken for cluster.local"},
	} {
		objects := of(row.domain)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if row.running && strings.Contains(r.URL.Path, "/namespaces/culvert-system/") {
				mesh.ServeHTTP(w, r)
				return
			}
			objects.ServeHTTP(w, r)
		})
		o := operator{t, clitest.Kubeconfig(t, h, t.TempDir())}
		_, stdout, stderr := o.run(append([]string{"policy", "lint"}, row.args...)...)
		if strings.Contains(stdout, "other-trust-domain") != row.found || !strings.Contains(stderr, row.says) || row.says == "" && stderr != "" {
			t.Errorf("%+v:\n%s%s", row, stdout, stderr)
		}
	}
}
