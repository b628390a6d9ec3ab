// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

func addrPort(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// policies says which are in force, with their modes.
func policies(s source.Snapshot) string {
	out := ""
	for _, p := range s.Policies.PeerAuthentications {
		out += fmt.Sprintf("%s %v %v\n", p.Name, p.Mode, map[string]string(p.Selector))
	}
	for _, p := range s.Policies.AuthorizationPolicies {
		out += p.Name + "\n"
	}
	return out
}

func inForce(want string) func(source.Snapshot) bool {
	return func(s source.Snapshot) bool { return policies(s) == want }
}

func peerAuthentication(t *testing.T, version, name, spec string) kubetest.Object {
	return custom(t, fmt.Sprintf(`{apiVersion: security.istio.io/%s, kind: PeerAuthentication, metadata: {name: %s, namespace: shop, managedFields: [{manager: kubectl}], generation: 3}, spec: %s}`, version, name, spec))
}

func TestPoliciesAreFoundWhenTheirKindsComeLater(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1"} {
		t.Run(version, func(t *testing.T) {
			server := startServer(t)
			server.Set(cluster(t)...)
			w := start(t, options(server))
			w.until("the first, without policies", inForce(""))
			w.says("")

			server.Offer("security.istio.io/" + version + "/peerauthentications")
			server.Set(peerAuthentication(t, version, "strict", `{mtls: {mode: STRICT}}`))
			w.until("a policy", inForce("strict STRICT map[]\n"))
			server.Set(peerAuthentication(t, version, "strict", `{mtls: {mode: PERMISSIVE}}`))
			w.until("it changed", inForce("strict PERMISSIVE map[]\n"))
			server.Delete(peerAuthentication(t, version, "strict", `{}`))
			w.until("it went", inForce(""))
		})
	}
}

func TestAKindThatIsServedNoMoreTakesNoPolicyAway(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(peerAuthentications)
	server.Set(peerAuthentication(t, "v1", "strict", `{mtls: {mode: STRICT}}`))
	w := start(t, options(server))
	w.until("the first", inForce("strict STRICT map[]\n"))

	server.Drop(peerAuthentications)
	w.says("PeerAuthentication: not served any more; 1 of it stay in force until it is again")
	server.Set(pod(t, "web-2", 2))
	w.until("another pod, the same policy", func(s source.Snapshot) bool {
		return meshed("web-1", "web-2")(s) && inForce("strict STRICT map[]\n")(s)
	})

	server.Offer(peerAuthentications)
	w.until("it is served again, and empty", inForce(""))
	w.says("")
}

func TestAPolicyThatIsNotUnderstoodOpensNothingAndStopsNobodyElse(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(peerAuthentications)
	server.Offer(authorizationPolicies)
	server.Set(peerAuthentication(t, "v1", "known", `{mtls: {mode: PERMISSIVE}}`))
	w := start(t, options(server))
	w.until("the first", inForce("known PERMISSIVE map[]\n"))

	server.Set(
		peerAuthentication(t, "v1", "known", `{mtls: {mode: PERMISSIVE, plain: yes}}`),
		peerAuthentication(t, "v1", "new", `{selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}, excludePorts: [80]}`),
		peerAuthentication(t, "v1", "odd", `{selector: none}`),
		custom(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: shop}, spec: {rules: 1}}`),
	)
	w.until("what each means at the strictest", inForce("known PERMISSIVE map[]\nnew STRICT map[app:web]\nodd STRICT map[]\nall\n"))
	w.says(`PeerAuthentication shop/new: strict decoding error: unknown field "spec.excludePorts"`)
	server.Set(peerAuthentication(t, "v1", "fine", `{mtls: {mode: STRICT}}`))
	w.until("another one", func(s source.Snapshot) bool { return len(s.Policies.PeerAuthentications) == 4 })

	server.Set(peerAuthentication(t, "v1", "new", `{mtls: {mode: PERMISSIVE}}`))
	for _, name := range []string{"known", "odd", "fine"} {
		server.Delete(peerAuthentication(t, "v1", name, `{}`))
	}
	server.Delete(custom(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: shop}}`))
	w.until("the others went", inForce("new PERMISSIVE map[]\n"))
	w.says("")
}

// The CA writes the status of each policy: with 10,000 of them that would be a snapshot
// after another for minutes, on every node.
func TestAStatusOfAPolicyIsNothingNew(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(peerAuthentications)
	server.Offer(authorizationPolicies)
	authorization := custom(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shop}, spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}], to: [{operation: {methods: [GET]}}]}, {}]}}`)
	server.Set(peerAuthentication(t, "v1", "strict", `{mtls: {mode: STRICT}}`), authorization)
	w := start(t, options(server))
	w.until("the first", inForce("strict STRICT map[]\na\n"))
	decisions := w.source.builder.Decisions()

	for _, o := range server.Objects(peerAuthentications) {
		server.Set(withStatus(o))
	}
	for _, o := range server.Objects(authorizationPolicies) {
		server.Set(withStatus(o))
	}
	w.none("only the status changed")
	server.Set(peerAuthentication(t, "v1", "strict", `{mtls: {mode: PERMISSIVE}}`))
	w.until("it changed", inForce("strict PERMISSIVE map[]\na\n"))
	if n := w.source.builder.Decisions() - decisions; n != 1 {
		t.Errorf("%d decisions, want 1", n)
	}
}

func withStatus(o kubetest.Object) kubetest.Object {
	u := o.DeepCopyObject().(*unstructured.Unstructured)
	u.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "ZtunnelAccepted", "observedGeneration": int64(3)}}}
	return u
}

// Whoever may write one object must not fill the disk of every node.
func TestObjectsThatAreNotUnderstoodDoNotFloodTheLog(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o := options(server)
	var log env.Log
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	w := start(t, o)
	w.until("the first", anySnapshot)
	began := time.Now()
	for i := range 500 {
		server.Set(namespace(t, "bank", fmt.Sprintf("culvert.dev/mesh: x%d", i)))
	}
	w.says(`"x499" means nothing`)
	if n, most := log.Count("an object is not understood"), 1+int(time.Since(began)/sayEvery); n == 0 || n > most {
		t.Errorf("%d lines, want 1 to %d", n, most)
	}
}

func TestALabelThatMeansNothingIsSaid(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Set(namespace(t, "bank", "culvert.dev/mesh: enable"))
	w := start(t, options(server))
	w.until("the first", anySnapshot)
	w.says(`Namespace bank: metadata.labels[culvert.dev/mesh]: "enable" means nothing: not enabled or disabled`)
	server.Set(namespace(t, "bank", "culvert.dev/mesh: enabled"))
	w.says("")
}
