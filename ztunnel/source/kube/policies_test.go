// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

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

// Whoever may write one object must not fill the disk of every node.
func TestObjectsThatAreNotUnderstoodDoNotFloodTheLog(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o := options(server)
	var log lines
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	w := start(t, o)
	w.until("the first", anySnapshot)
	began := time.Now()
	for i := range 500 {
		server.Set(namespace(t, "bank", fmt.Sprintf("culvert.dev/mesh: x%d", i)))
	}
	w.says(`"x499" means nothing`)
	if n, most := log.count("an object is not understood"), 1+int(time.Since(began)/sayEvery); n == 0 || n > most {
		t.Errorf("%d lines, want 1 to %d", n, most)
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
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
