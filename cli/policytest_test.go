// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// recordOf is the file of one access record: a pod of shop was refused at port 9090 of web.
func recordOf(t *testing.T, pod string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "records.jsonl")
	text := `{"time":"2026-11-29T11:00:00Z","message":"connection complete","direction":"inbound","dst.namespace":"shop","dst.workload":"web",` +
		`"src.addr":"10.0.0.1:40000","src.namespace":"shop","src.workload":"` + pod + `","src.identity":"spiffe://cluster.local/ns/shop/sa/default",` +
		`"dst.addr":"10.0.0.2:15008","dst.hbone_addr":"10.0.0.2:9090","path":"tunnel","result":"denied"}` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// closed is shop with a NetworkPolicy that admits nobody.
func closed() cluster {
	k := shop()
	const network = "/apis/networking.k8s.io/v1/networkpolicies"
	k[network] = strings.Replace(k[network], `"items": []`, `"items": [{"metadata": {"name": "closed", "namespace": "shop"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}]`, 1)
	k["/api/v1/namespaces"] = strings.Replace(k["/api/v1/namespaces"], `"enabled"`, `"enabled", "culvert.dev/network-policy": "enforce"`, 1)
	return k
}

// What the API server's NetworkPolicies refuse, no policy lets in that is tried.
func TestATrialGoesByTheNetworkPoliciesOfTheAPIServer(t *testing.T) {
	for want, k := range map[string]cluster{"0 newly refused, 1 newly allowed": shop(), "0 newly refused, 0 newly allowed": closed()} {
		o := operator{t, clitest.Kubeconfig(t, k, t.TempDir())}
		got := o.must(exitOK, "policy", "test", "--delete", "AuthorizationPolicy/shop/web", "--from", recordOf(t, "db"), "--fail-on", "none", "--api-server")
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// NetworkPolicies would have to know the source of this record, which is gone.
func TestStrictDoesNotHangOnNetworkPolicies(t *testing.T) {
	o := operator{t, clitest.Kubeconfig(t, closed(), t.TempDir())}
	objects := filepath.Join(t.TempDir(), "objects.yaml")
	const text = `{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: enabled, culvert.dev/network-policy: enforce}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, uid: u2}, spec: {containers: [{name: c}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: shop}, spec: {podSelector: {}, policyTypes: [Ingress]}}
`
	if err := os.WriteFile(objects, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{"--api-server", "--objects=" + objects} {
		got := o.must(exitOK, "preflight", "strict", "--ns", "shop", "--from", recordOf(t, "gone"), where)
		if !strings.HasPrefix(got, "1 connections judged, 0 would be shut out") {
			t.Errorf("%s: got %q", where, got)
		}
	}
}

// The oldest of a scope decides: one that is new to an API server is the youngest, and one
// that replaces another is as old as that.
func TestAPolicyThatIsTriedIsAsOldAsItWouldBe(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	peer := func(name string, mode policy.Mode, created time.Time) policy.PeerAuthentication {
		return policy.PeerAuthentication{Object: policy.Object{Namespace: "shop", Name: name, Created: created}, Mode: mode}
	}
	all := []policy.PeerAuthentication{peer("first", policy.Permissive, now.Add(-time.Hour)), peer("second", policy.Permissive, now.Add(-time.Minute))}
	all = place(all, peer("first", policy.Strict, time.Time{}), peerObject, now)
	all = place(all, peer("a", policy.Permissive, time.Time{}), peerObject, now)
	if len(all) != 3 || all[0].Mode != policy.Strict || !all[0].Created.Equal(now.Add(-time.Hour)) || !all[2].Created.Equal(now) {
		t.Errorf("%+v", all)
	}
}
