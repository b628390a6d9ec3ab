// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

// apiServer is what one node can reach of an API server: it tells what stands in the
// node's directory of YAML.
type apiServer struct {
	*story
	node   *lab.Node
	server *kubetest.Server
	ns     *netns.NS
	http   *http.Server
}

const apiAddr = "127.0.0.1:6443"

// underAPIServer has a node's ztunnel watch an API server from now on.
func (s *story) underAPIServer(n *lab.Node) *apiServer {
	s.Helper()
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", n.Ztunnel.PID()))
	s.must(err)
	s.Cleanup(func() { ns.Close() })
	a := &apiServer{story: s, node: n, server: kubetest.New(), ns: ns}
	a.server.Offer("security.istio.io/v1beta1/peerauthentications")
	go func() {
		if err := a.server.Mirror(s.ctx, n.Objects()); err != nil {
			s.Errorf("the API server of %s: %v", n.Name, err)
		}
	}()
	a.start()
	s.Cleanup(a.stop)
	path := filepath.Join(s.TempDir(), "kubeconfig")
	s.must(os.WriteFile(path, kubetest.Kubeconfig(apiAddr), 0o600))
	s.must(n.Ztunnel.Stop(s.ctx))
	s.must(n.StartZtunnel(s.ctx, lab.ZtunnelOptions{Kubeconfig: path}))
	return a
}

func (a *apiServer) start() {
	a.Helper()
	ln, err := a.ns.Listen(a.ctx, netip.MustParseAddrPort(apiAddr), nil)
	a.must(err)
	a.http = &http.Server{Handler: a.server}
	go a.http.Serve(ln)
}

func (a *apiServer) stop() { a.http.Close() }

// stored reports whether what is in force is that of a state file.
func (a *apiServer) stored() bool {
	a.Helper()
	dump, err := a.node.Dump(a.ctx)
	a.must(err)
	return !dump.Source.Stored.IsZero()
}

func TestZtunnelsThatWatchAnAPIServerCarryWhatItSays(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	here, there := s.pod(s.one, "here", nil), s.pod(s.two, "there", nil)
	s.serve(there.Place, agent.Echo, 8080)
	one, two := s.underAPIServer(s.one), s.underAPIServer(s.two)
	s.reached(here.Place, "tcp4", there, 8080)
	s.record(there.Node, "direction", "inbound", "path", "tunnel", "src.identity", here.SPIFFEID("cluster.local"), "result", "ok")

	// A pod comes; a label goes and comes back.
	late := s.pod(s.one, "late", nil)
	s.reached(late.Place, "tcp4", there, 8080)
	s.must(s.Label(s.namespace, "culvert.dev/mesh", "disabled"))
	s.must(late.AwaitOutside(s.ctx))
	s.must(s.Label(s.namespace, "culvert.dev/mesh", "enabled"))
	s.must(late.AwaitEnrolled(s.ctx))
	s.must(there.AwaitEnrolled(s.ctx))

	// Without the API servers all goes on, also in a ztunnel that starts.
	one.stop()
	two.stop()
	s.reached(here.Place, "tcp4", there, 8080)
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	if !one.stored() {
		t.Error("a ztunnel that started without API server does not say that it goes by its state file")
	}
	s.must(here.AwaitEnrolled(s.ctx))
	s.reached(here.Place, "tcp4", there, 8080)

	// What changed meanwhile takes effect.
	s.must(s.Label(s.namespace, "culvert.dev/mesh", "disabled"))
	one.start()
	two.start()
	for _, p := range []*lab.Pod{here, late, there} {
		ctx, cancel := context.WithTimeout(s.ctx, 40*time.Second)
		s.must(p.AwaitOutside(ctx))
		cancel()
	}
	if one.stored() {
		t.Error("what is in force is still that of the state file")
	}
}
