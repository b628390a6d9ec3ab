// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

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

// status is the annotation of a pod at the API server.
func (a *apiServer) status(p *lab.Pod) string {
	for _, o := range a.server.Objects("pods") {
		if o.GetNamespace() == p.Namespace && o.GetName() == p.Name {
			return o.GetAnnotations()["culvert.dev/status"]
		}
	}
	return "there is no pod"
}

// shows waits until that annotation begins so, or is not there: for half a minute, as a
// bad one that a busy machine has meanwhile is told, too.
func (a *apiServer) shows(p *lab.Pod, want string) {
	a.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for got := a.status(p); !strings.HasPrefix(got, want) || want == "" && got != ""; got = a.status(p) {
		select {
		case <-tick.C:
		case <-deadline:
			a.Fatalf("the status of %v is %q, want %q", p, got, want)
		}
	}
}

// events are the reasons of those on a pod, sorted.
func (a *apiServer) events(p *lab.Pod) (reasons []string) {
	for _, o := range a.server.Objects("events") {
		if e := o.(*corev1.Event); e.Namespace == p.Namespace && e.InvolvedObject.Name == p.Name {
			reasons = append(reasons, e.Reason)
		}
	}
	slices.Sort(reasons)
	return reasons
}

func TestOnKubernetesPodsShowHowTheyAre(t *testing.T) {
	s := tellAlone(t, lab.Options{})
	web := s.pod(s.one, "web", nil)
	older := s.pod(s.one, "older", func(spec *lab.PodSpec) { spec.Unmeshed = true })
	static := s.pod(s.one, "static", func(spec *lab.PodSpec) { spec.Static = true })
	vm := s.pod(s.one, "vm", func(spec *lab.PodSpec) { spec.RuntimeClass = "kata-qemu" })
	a := s.underAPIServer(s.one)

	s.must(s.Label(s.namespace, "culvert.dev/mesh", "enabled"))
	for _, p := range []*lab.Pod{web, older, static} {
		a.shows(p, "verified")
	}
	a.shows(vm, `outside: runtimeClassName "kata-qemu"`)
	a.eventually("the Event of a pod that cannot be enrolled", func() bool { return slices.Equal(a.events(vm), []string{"NotEnrolled"}) })

	// A ztunnel that starts finds it said already. What is bad for five seconds is told:
	// on a machine that is that slow, there is something to say.
	writes, start := a.server.Asked("patch pods/status"), time.Now()
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.eventually("all are verified", func() bool { return s.gauge(s.one, `culvert_enrolled_pods{state="verified"}`) == 3 })
	if n := a.server.Asked("patch pods/status"); n != writes && time.Since(start) < 5*time.Second {
		t.Errorf("a restart wrote %d times to pods", n-writes)
	}

	s.must(s.Label(s.namespace, "culvert.dev/mesh", "disabled"))
	for _, p := range []*lab.Pod{web, older, static, vm} {
		a.shows(p, "")
	}
	// A pod's own label beats its namespace's.
	s.must(older.SetLabel("culvert.dev/mesh", "enabled"))
	a.shows(older, "verified")
	a.shows(web, "")
	a.eventually("the Event of one that left", func() bool { return slices.Contains(a.events(web), "Unenrolled") })
}

// Nobody looks at labels every few seconds: they are followed. The quickest of some
// changes counts, as this machine may be busy.
func TestEnrollmentFollowsALabelWithinASecond(t *testing.T) {
	s := tellAlone(t, lab.Options{})
	web := s.pod(s.one, "web", nil)
	s.underAPIServer(s.one)
	quickest := func(value string, await func(context.Context) error) time.Duration {
		start := time.Now()
		s.must(s.Label(s.namespace, "culvert.dev/mesh", value))
		s.must(await(s.ctx))
		return time.Since(start)
	}
	in, out := time.Hour, time.Hour
	for range 5 {
		in = min(in, quickest("enabled", web.AwaitEnrolled))
		out = min(out, quickest("disabled", web.AwaitOutside))
	}
	t.Logf("in the mesh after %v, out of it after %v", in, out)
	if in > time.Second || out > time.Second {
		t.Errorf("in the mesh after %v, out of it after %v", in, out)
	}
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
