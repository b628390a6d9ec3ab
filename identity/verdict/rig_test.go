// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil // one of them sleeps by the time of another bubble
	os.Exit(env.CheckLeaks(m))
}

const (
	authorizationPolicies = "security.istio.io/v1/authorizationpolicies"
	peerAuthentications   = "security.istio.io/v1/peerauthentications"
	leaseResource         = "coordination.k8s.io/v1/leases"
)

// rig is an API server and replicas of the CA, in a bubble whose time is the test's own.
type rig struct {
	t           *testing.T
	server      *kubetest.Server
	accounts    []identity.ServiceAccount // of ztunnels
	beforePatch atomic.Pointer[func()]    // runs once
}

func inBubble(t *testing.T, story func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, server: kubetest.New()}
		for _, resource := range []string{authorizationPolicies, peerAuthentications, leaseResource} {
			r.server.Offer(resource)
		}
		story(t, r)
	})
}

// onPatch has f run before the next patch arrives.
func (r *rig) onPatch(f func()) { r.beforePatch.Store(&f) }

// replica is one that runs.
type replica struct {
	*Reporter
	cut  atomic.Bool // its process was killed: nothing of it reaches the server
	log  env.Log
	stop func()
}

func (r *rig) start() *replica {
	r.t.Helper()
	p := &replica{}
	var err error
	p.Reporter, err = New(Options{
		API: &rest.Config{Host: "http://api", QPS: -1, Transport: &inProcess{r, &p.cut}}, Lease: "culvert-system/policies",
		Accounts: r.accounts, Log: slog.New(slog.NewTextHandler(&p.log, nil)),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	p.stop = func() {
		cancel()
		<-done
	}
	r.t.Cleanup(func() {
		p.stop()
		r.after(time.Minute) // the reflectors' pauses
	})
	return p
}

// kill is kill -9: no answer and no request from now on.
func (p *replica) kill() { p.cut.Store(true) }

// after lets time pass and everything happen that does meanwhile.
func (r *rig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) object(text string) *unstructured.Unstructured {
	r.t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		r.t.Fatalf("%v in:\n%s", err, text)
	}
	return u
}

// apply is kubectl apply: a new generation, and the status as it is.
func (r *rig) apply(text string) *unstructured.Unstructured {
	r.t.Helper()
	u := r.object(text)
	u.SetAPIVersion("security.istio.io/v1")
	u.SetGeneration(1)
	if is := r.find(u.GetKind(), u.GetNamespace(), u.GetName()); is != nil {
		u.SetGeneration(is.GetGeneration() + 1)
		u.SetManagedFields(is.GetManagedFields())
		if status, there := is.Object["status"]; there {
			u.Object["status"] = status
		}
	}
	u.SetUID("u-1")
	r.server.Set(u)
	return u
}

func (r *rig) find(kind, namespace, name string) *unstructured.Unstructured {
	for _, o := range r.server.Objects("security.istio.io/v1/" + strings.ToLower(strings.Replace(kind+"s", "ys", "ies", 1))) {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o.DeepCopyObject().(*unstructured.Unstructured)
		}
	}
	return nil
}

// says is an object's condition as "STATUS REASON GENERATION: MESSAGE", "" without one.
func (r *rig) says(kind, namespace, name string) string {
	r.t.Helper()
	u := r.find(kind, namespace, name)
	if u == nil {
		return "gone"
	}
	list, i, err := conditions(u)
	if err != nil || i < 0 {
		return ""
	}
	c := list[i].(map[string]any)
	return fmt.Sprintf("%v %v %v: %v", c["status"], c["reason"], c["observedGeneration"], c["message"])
}

func (r *rig) want(kind, name, want string) {
	r.t.Helper()
	if got := r.says(kind, "shop", name); got != want {
		r.t.Errorf("%s %s says\n  %s\nwant\n  %s", kind, name, got, want)
	}
}

// events are those on objects of a name.
func (r *rig) events(name string) (out []*corev1.Event) {
	for _, o := range r.server.Objects("events") {
		if e := o.(*corev1.Event); e.InvolvedObject.Name == name {
			out = append(out, e)
		}
	}
	return out
}

// writes is how often a status was written, or tried to be.
func (r *rig) writes() int {
	return r.server.Asked("patch "+authorizationPolicies+"/status") + r.server.Asked("patch "+peerAuthentications+"/status")
}

// inProcess brings requests to a server without a network, whose waiting a bubble would
// not see.
type inProcess struct {
	*rig
	cut *atomic.Bool
}

var errCut = errors.New("no way to the API server")

func (p *inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.cut.Load() {
		return nil, errCut
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	if r.Method == http.MethodPatch {
		if f := p.beforePatch.Swap(nil); f != nil {
			(*f)()
		}
	}
	body, answer := io.Pipe()
	w := &response{header: http.Header{}, body: answer, begun: make(chan int, 1)}
	go func() {
		p.server.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		answer.Close()
	}()
	context.AfterFunc(r.Context(), func() { answer.CloseWithError(r.Context().Err()) })
	select {
	case code := <-w.begun:
		return &http.Response{StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Body: body, Request: r, ContentLength: -1}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// response is an http.ResponseWriter whose body is read while it is written.
type response struct {
	header http.Header
	body   *io.PipeWriter
	begun  chan int
	once   sync.Once
}

func (w *response) Header() http.Header  { return w.header }
func (w *response) WriteHeader(code int) { w.once.Do(func() { w.begun <- code }) }
func (w *response) Flush()               {}

func (w *response) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
