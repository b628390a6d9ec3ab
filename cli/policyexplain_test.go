// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// A pod with a field that is newer than we is a pod. A policy that is not understood may
// mean anything, and there is no answer.
func TestExplainGoesByTheAPIServer(t *testing.T) {
	k := shop()
	o := operator{t, clitest.Kubeconfig(t, k, t.TempDir())}
	ask := []string{"policy", "explain", "shop/web:9090", "--from", "shop/db", "--api-server"}
	got := o.must(exitOK, ask...)
	if !strings.HasPrefix(got, "refused: from shop/db, ") || !strings.Contains(got, "\n  AuthorizationPolicy shop/web: no rule allows it\n  as the API server holds it\n") {
		t.Errorf("got %q", got)
	}
	const network = "/apis/networking.k8s.io/v1/networkpolicies"
	k[network] = strings.Replace(k[network], `"items": []`, `"items": [{"metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}]`, 1)
	k["/api/v1/namespaces"] = strings.Replace(k["/api/v1/namespaces"], `"enabled"`, `"enabled", "culvert.dev/network-policy": "enforce"`, 1)
	if got := o.must(exitOK, "policy", "explain", "shop/web:8080", "--from", "shop/db", "--api-server"); !strings.Contains(got, "NetworkPolicy shop/closed: no ingress rule admits it\n") {
		t.Errorf("got %q", got)
	}
	const policies = "/apis/security.istio.io/v1beta1/authorizationpolicies"
	k[policies] = strings.Replace(k[policies], `"rules"`, `"rulse"`, 1)
	if got := o.must(exitFail, ask...); !strings.Contains(got, `unknown field "spec.rulse"`) {
		t.Errorf("got %q", got)
	}
}
