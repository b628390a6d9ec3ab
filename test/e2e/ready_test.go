// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// ready asks a node's readiness.
func (s *story) ready(n *lab.Node) (bool, string) {
	s.Helper()
	status, body, err := n.HTTPGet(s.ctx, "http://127.0.0.1:15021/healthz/ready")
	if err != nil {
		return false, err.Error() // it starts
	}
	if status != http.StatusOK && status != http.StatusServiceUnavailable {
		s.Errorf("readiness: status %d: %s", status, body)
	}
	return status == http.StatusOK, body
}

// slowly is eventually for what takes its time.
func (s *story) slowly(limit time.Duration, what string, done func() bool) {
	s.Helper()
	s.within(limit, func() string {
		if done() {
			return ""
		}
		return "waited in vain: " + what
	})
}

// notReady waits until readiness says all of that, and only then.
func (s *story) notReady(n *lab.Node, says ...string) {
	s.Helper()
	var body string
	defer func() {
		if s.Failed() {
			s.Logf("readiness: %s", body)
		}
	}()
	s.slowly(30*time.Second, "readiness says "+strings.Join(says, ", "), func() bool {
		var ok bool
		if ok, body = s.ready(n); ok {
			s.Fatalf("ready, and should say %q", says)
		}
		return containsAll(body, says)
	})
}

// token writes a token of the node's ztunnel, which change may spoil.
func (s *story) token(path, node string, change func(claims map[string]any)) {
	s.Helper()
	token, err := s.Token(node, change)
	s.must(err)
	s.must(os.WriteFile(path+".new", []byte(token), 0o600))
	s.must(os.Rename(path+".new", path))
}

func expired(claims map[string]any) {
	claims["exp"] = time.Now().Add(-time.Hour).Unix()
}

// A000-8: a node that the CA would give nothing to, or whose CA is away when ztunnel
// starts, is not ready, says why, and gets ready by itself when that is mended.
func TestNodeIsReadyWhenTheCAWouldSignForIt(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{Nodes: 1}, "mesh")
	n := s.one
	token, root := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "root.pem")
	pem, err := os.ReadFile(s.Identity.Root)
	s.must(err)
	another, err := s.StartIdentity(s.ctx, lab.IdentityOptions{Name: "another", Host: 101})
	s.must(err)
	strange, err := os.ReadFile(another.Root)
	s.must(err)
	good := func() {
		s.token(token, n.Name, nil)
		s.must(os.WriteFile(root, pem, 0o600))
	}
	for _, test := range []struct {
		name  string
		spoil func()
		flags []string // that are wrong: nothing mends them but a restart
		says  []string
	}{
		{"no token", func() { s.must(os.Remove(token)) }, nil, []string{token, "no such file", "(-token-file)"}},
		{"expired token", func() { s.token(token, n.Name, expired) }, nil,
			[]string{s.Identity.Addr.String(), token, "expired on", "(-token-file)"}},
		{"token for another audience", func() {
			s.token(token, n.Name, func(claims map[string]any) { claims["aud"] = "istio-ca" })
		}, nil, []string{token, `"istio-ca"`, "-audience"}},
		{"token of another node", func() { s.token(token, "elsewhere", nil) }, nil, []string{`"elsewhere"`, n.Name, "-node-name"}},
		{"root of another CA", func() { s.must(os.WriteFile(root, strange, 0o600)) }, nil,
			[]string{s.Identity.Addr.String(), root, "(-ca-root)"}},
		{"another trust domain", func() {}, []string{"-trust-domain", "else.where"}, []string{`"cluster.local"`, `"else.where"`, "(-trust-domain)"}},
		{"another node name", func() {}, []string{"-node-name", "elsewhere"}, []string{n.Name, `"elsewhere"`, "-node-name"}},
		{"another server name", func() {}, []string{"-ca-server-name", "other.svc"}, []string{"other.svc", "(-ca-server-name)"}},
		{"nobody at the address", func() {}, []string{"-ca-address", "127.0.0.1:1"}, []string{"127.0.0.1:1", "refused", "(-ca-address)"}},
	} {
		s.must(n.Ztunnel.Stop(s.ctx))
		good()
		test.spoil()
		s.must(n.LaunchZtunnel(s.ctx, lab.ZtunnelOptions{Args: append([]string{"-token-file", token, "-ca-root", root}, test.flags...)}))
		s.notReady(n, append(test.says, "CA: ")...)
		if test.flags != nil {
			continue
		}
		good()
		s.slowly(30*time.Second, test.name+" is mended", func() bool { ok, _ := s.ready(n); return ok })
		// Once ready, it stays: what it carries goes on.
		test.spoil()
		if ok, body := s.ready(n); !ok {
			t.Errorf("%s, later: %s", test.name, body)
		}
	}
}

// Pods show a node name that is no node's, whatever the CA says.
func TestNodeNameThatNoPodHasIsNotReady(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{Nodes: 1})
	n, token := s.one, filepath.Join(t.TempDir(), "token")
	s.token(token, "elsewhere", nil)
	s.must(n.Ztunnel.Stop(s.ctx))
	s.must(n.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: []string{"-node-name", "elsewhere", "-token-file", token}}))
	s.pod(n, "web", nil)
	s.notReady(n, "node: ", n.Name, `"elsewhere"`, "(-node-name)")
	s.eventually("the log says it", func() bool { return strings.Contains(s.Logs(), "has the name of another node") })
}

// While the CA refuses, nothing ends before its time, and nothing looks well.
func TestPodWhoseCertificateIsNotRenewedDoesNotLookWell(t *testing.T) {
	t.Parallel()
	const ttl = 25 * time.Second
	s := tellAlone(t, lab.Options{TTL: ttl, Nodes: 1}, "mesh")
	n, token := s.one, filepath.Join(t.TempDir(), "token")
	s.token(token, n.Name, nil)
	s.must(n.Ztunnel.Stop(s.ctx))
	s.must(n.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: []string{"-token-file", token}}))
	client, server := s.pod(n, "client", nil), s.pod(n, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	pods := func(state string) float64 { return s.counted(n, "culvert_enrolled_pods", "state", state) }
	certificates := func(state string) float64 { return s.counted(n, "culvert_certificates", "state", state) }
	s.eventually("all is well", func() bool {
		return pods("intended") == 2 && pods("enrolled") == 2 && pods("verified") == 2 && pods("certified") == 2 &&
			certificates("valid") == 2 && s.counted(n, "culvert_ca_condition", "reason", "signs") == 1
	})
	s.reached(client.Place, "tcp4", server, 8080)

	s.token(token, n.Name, expired)
	s.slowly(2*ttl, "it is overdue", func() bool { return certificates("overdue")+certificates("expired") > 0 })
	if got := pods("certified"); got == 2 {
		t.Errorf("%v pods are certified while the renewal is overdue", got)
	}
	s.eventually("what the CA says is in the metrics", func() bool {
		return s.counted(n, "culvert_ca_condition", "reason", "token_expired") == 1
	})
	s.slowly(2*ttl, "both have expired", func() bool { return certificates("expired") == 2 })
	if certified, enrolled := pods("certified"), pods("enrolled"); certified != 0 || enrolled != 2 {
		t.Errorf("%v enrolled, %v certified", enrolled, certified)
	}
	for _, pod := range []*lab.Pod{client, server} {
		at := s.counted(n, "culvert_certificate_expiry_timestamp_seconds", "identity", pod.SPIFFEID("cluster.local"))
		if at == 0 || at > float64(time.Now().Unix()) {
			t.Errorf("the expired certificate of %v ends at %v", pod, at)
		}
		if c := s.certificate(n, pod); c.State != "expired" || !strings.Contains(c.Error, "the token expired on") {
			t.Errorf("certificate of %v: %+v", pod, c)
		}
	}
	s.refused(client.Place, "tcp4", server, 8080)
	s.record(n, "direction", "outbound", "src.workload", "client", "result", "identity")
	if ok, body := s.ready(n); !ok {
		t.Errorf("readiness: %s", body)
	}

	s.token(token, n.Name, nil)
	s.slowly(2*time.Minute, "all is well again", func() bool {
		return pods("certified") == 2 && s.counted(n, "culvert_ca_condition", "reason", "signs") == 1
	})
	s.reached(client.Place, "tcp4", server, 8080)
}

// certificate is what the dump says of a pod's.
func (s *story) certificate(n *lab.Node, pod *lab.Pod) (c struct{ State, Error string }) {
	s.Helper()
	dump, err := n.Dump(s.ctx)
	s.must(err)
	var states map[string]struct{ Certificate json.RawMessage }
	s.must(json.Unmarshal(dump.Text["workloadState"], &states))
	s.must(json.Unmarshal(states[pod.UID].Certificate, &c))
	return c
}

func TestTunnelsOfDeletedPodsStayCounted(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	conn, err := client.Dial(s.ctx, "tcp4", server.At("tcp4", 8080))
	s.must(err)
	s.must(conn.Ping(s.ctx, "hello"))
	outbound := func(family string) float64 { return s.counted(s.one, family, "direction", "outbound") }
	inbound := func(family string) float64 { return s.counted(s.two, family, "direction", "inbound") }
	for _, family := range []string{"culvert_tunnels_open", "culvert_tunnel_streams_open", "culvert_tunnel_streams_total", "culvert_tunnel_handshakes_total"} {
		if out, in := outbound(family), inbound(family); out < 1 || in < 1 {
			t.Errorf("%s: %v and %v", family, out, in)
		}
	}
	s.must(client.Delete(s.ctx))
	s.must(server.Delete(s.ctx))
	s.eventually("nothing is open", func() bool {
		return outbound("culvert_tunnels_open") == 0 && inbound("culvert_tunnels_open") == 0 &&
			outbound("culvert_tunnel_streams_open") == 0 && inbound("culvert_tunnel_streams_open") == 0
	})
	for _, family := range []string{"culvert_tunnel_streams_total", "culvert_tunnel_handshakes_total"} {
		if out, in := outbound(family), inbound(family); out < 1 || in < 1 {
			t.Errorf("%s went back to %v and %v", family, out, in)
		}
	}
	if err := conn.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		t.Logf("close: %v", err)
	}
}
