// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// patient is how long a slow machine may take for what is soon.
const patient = 30 * time.Second

// teller is a ztunnel's /events that can be taken away.
type teller struct {
	away    atomic.Bool
	queries chan url.Values // of those that began to listen
	lines   chan string
}

func newTeller() *teller {
	return &teller{queries: make(chan url.Values, 100), lines: make(chan string)}
}

func (s *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/events" || s.away.Load() {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	_ = http.NewResponseController(w).Flush()
	s.queries <- r.URL.Query()
	for {
		select {
		case line := <-s.lines:
			if line == "end" {
				return
			}
			fmt.Fprintln(w, line)
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// follow returns what is told, until the test ends or stop is called.
func follow(t *testing.T, source Source, query url.Values) (told <-chan Told, stop func()) {
	heard := make(chan Told, 100)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if err := Follow(ctx, source, query, func(told Told) { heard <- told }); err != nil {
			t.Error(err)
		}
	})
	return heard, func() { cancel(); group.Wait() }
}

func next(t *testing.T, told <-chan Told) Told {
	t.Helper()
	select {
	case one := <-told:
		return one
	case <-time.After(patient):
		t.Fatal("nothing was told")
	}
	return Told{}
}

func TestANodeThatGoesAwayAndReturnsIsTold(t *testing.T) {
	one := newTeller()
	told, stop := follow(t, Addresses{Ztunnel: []string{clitest.Serve(t, one)}}, url.Values{"event": {"refused"}})
	defer stop()
	if began := next(t, told); began.Word != Began || began.Nodes != 1 {
		t.Fatalf("first %+v", began)
	}
	if query := <-one.queries; query.Get("event") != "refused" {
		t.Errorf("asked for %v", query)
	}
	one.lines <- ""
	one.lines <- `{"event":"refused","result":"denied","source":{"namespace":"shop","address":"10.0.0.1:5"},"news":1}`
	if e := next(t, told); e.Word != "" || e.Event.Result != "denied" || e.Event.Source.Namespace != "shop" || !strings.Contains(string(e.Event.Line), `"news":1`) {
		t.Errorf("event %+v", e)
	}
	one.away.Store(true)
	one.lines <- "end"
	if gone := next(t, told); gone.Word != Silent || gone.Problem != "it ended the stream" {
		t.Errorf("after its end: %+v", gone)
	}
	one.away.Store(false)
	if back := next(t, told); back.Word != Answers || back.For <= 0 {
		t.Errorf("when it is back: %+v", back)
	}
	one.lines <- `{"event":"dropped","count":3}`
	if e := next(t, told); e.Event.Kind != "dropped" || e.Event.Count != 3 {
		t.Errorf("event %+v", e)
	}
	one.lines <- "no JSON"
	if gone := next(t, told); gone.Word != Silent || !strings.Contains(gone.Problem, "not understood") {
		t.Errorf("after nonsense: %+v", gone)
	}
}

func TestNodesThatDoNotAnswerAreToldBeforeItBegins(t *testing.T) {
	crowded := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "eight listen already", http.StatusServiceUnavailable)
	})
	told, stop := follow(t, Addresses{Ztunnel: []string{clitest.Serve(t, newTeller()), clitest.Serve(t, crowded)}}, nil)
	defer stop()
	if silent := next(t, told); silent.Word != Silent || silent.Problem != "/events: 503 Service Unavailable: eight listen already" {
		t.Errorf("first %+v", silent)
	}
	if began := next(t, told); began.Word != Began || began.Nodes != 1 {
		t.Errorf("then %+v", began)
	}
}

// An upgrade replaces the pod of a node's ztunnel; nodes come and go.
func TestPodsThatComeAndGoAreFollowed(t *testing.T) {
	old, young := newTeller(), newTeller()
	k := &clitest.Kubernetes{}
	add := func(pod, node string, h http.Handler) {
		k.Pod("culvert-system", pod, "ztunnel", node, true, map[string]string{"15000": clitest.Serve(t, h)})
	}
	add("ztunnel-1", "node1", old)
	api, err := kubeapi.Open(k.Kubeconfig(t, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	told, stop := follow(t, &Cluster{API: api, Namespace: "culvert-system"}, nil)
	defer stop()
	if began := next(t, told); began.Word != Began || began.Nodes != 1 {
		t.Fatalf("first %+v", began)
	}
	add("ztunnel-2", "node1", young)
	k.Gone("culvert-system", "ztunnel-1")
	<-young.queries
	young.lines <- `{"event":"open"}`
	if e := next(t, told); e.Node != "node1" || e.Event.Kind != "open" {
		t.Errorf("of the one that replaced it: %+v", e)
	}
	add("ztunnel-3", "node2", newTeller())
	if came := next(t, told); came.Node != "node2" || came.Word != Listens {
		t.Errorf("a node that came: %+v", came)
	}
	k.Gone("culvert-system", "ztunnel-3")
	if went := next(t, told); went.Node != "node2" || went.Word != Gone {
		t.Errorf("a node that went: %+v", went)
	}
}
