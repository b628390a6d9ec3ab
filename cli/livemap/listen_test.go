// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

const patient = 30 * time.Second

// teller is a ztunnel that tells what a test has it tell.
type teller struct {
	clitest.Ztunnel
	began chan string         // queries of those that began to listen
	left  chan struct{}       // one for each that listens no more
	lines chan map[string]any // nil ends the stream
}

func newTeller() *teller {
	return &teller{clitest.Ztunnel{Node: "one"}, make(chan string, 10), make(chan struct{}, 10), make(chan map[string]any)}
}

func (n *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/events" {
		n.Ztunnel.ServeHTTP(w, r)
		return
	}
	_ = http.NewResponseController(w).Flush()
	n.began <- r.URL.RawQuery
	defer func() { n.left <- struct{}{} }()
	for {
		select {
		case line := <-n.lines:
			if line == nil {
				return
			}
			_ = json.NewEncoder(w).Encode(line) // a client that went is no matter
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func soon[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case one := <-from:
		return one
	case <-time.After(patient):
		t.Fatalf("not within %v: %s", patient, what)
	}
	panic("unreachable")
}

// listen has a History hear a node, until the test ends.
func listen(t *testing.T, h *History, addresses ...string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		if err := h.Listen(ctx, fleet.Addresses{Ztunnel: addresses}, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return stop
}

// nextNews waits for so many refusals of the first kind.
func nextNews(t *testing.T, lines *bufio.Scanner, count uint64) Refusal {
	t.Helper()
	for name := ""; lines.Scan(); {
		if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			name = event
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || name != "refused" {
			continue
		}
		var news News
		if err := json.Unmarshal([]byte(data), &news); err != nil {
			t.Fatal(err)
		}
		if len(news.Refusals) > 0 && news.Refusals[0].Count == count {
			return news.Refusals[0]
		}
	}
	t.Fatalf("the stream ended: %v", lines.Err())
	return Refusal{}
}

func denied(direction, namespace, workload string) map[string]any {
	return map[string]any{
		"event": "refused", "time": noon.Add(time.Second), "direction": direction, "result": "denied", "policy": "PeerAuthentication shop/default",
		"source":      map[string]any{"namespace": namespace, "workload": workload, "pod": workload + "-1", "address": "10.0.0.7:4711"},
		"destination": map[string]any{"namespace": "shop", "workload": "db", "pod": "db-1", "address": "10.0.0.8:5432"},
	}
}

// Moments do not come here: what the page hears, it hears by the nodes' streams.
func TestARefusalReachesThePageBeforeTheNodesAreAsked(t *testing.T) {
	s := &Server{}
	server, _ := serve(t, s)
	one := newTeller()
	stop := listen(t, s.History, clitest.Serve(t, one), "127.0.0.1:1") // nobody is there
	lines := follow(t, server)
	nextTick(t, lines)
	if query := soon(t, "the node is listened to", one.began); query != "event=refused" {
		t.Errorf("asked for %q", query)
	}
	one.lines <- denied("outbound", "shop", "web")
	r := nextNews(t, lines, 1)
	if r.From != "shop/web" || r.To != "shop/db" || r.Word != "denied" || r.Policy != "PeerAuthentication shop/default" || r.Fresh != 1 || r.Node != "one" || r.Source != "10.0.0.7:4711" {
		t.Errorf("heard %+v", r)
	}
	one.lines <- nil
	soon(t, "the stream ends", one.left)
	soon(t, "the node is listened to again", one.began)
	one.lines <- denied("outbound", "shop", "web")
	if r := nextNews(t, lines, 2); r.Fresh != 2 {
		t.Errorf("heard again %+v", r)
	}
	stop()
	soon(t, "nobody listens when the map ends", one.left)
}

// It costs a node something for each connection.
func TestNodesAreListenedToWhileSomebodyFollows(t *testing.T) {
	h, one := &History{}, newTeller()
	listen(t, h, clitest.Serve(t, one))
	if some, _ := h.audience.some(); some {
		t.Error("nobody came, and somebody is there")
	}
	first, second := h.audience.enter(), h.audience.enter()
	soon(t, "the node is listened to", one.began)
	first()
	one.lines <- denied("outbound", "shop", "web") // it is still taken
	second()
	soon(t, "the node is left alone", one.left)
}

// mute is a source of no nodes, which may not be found.
type mute struct {
	fleet.Source
	asked int
	err   error
}

func (m *mute) Ztunnels(context.Context) ([]fleet.Target, error) {
	m.asked++
	return nil, m.err
}

func TestItIsListenedAgainAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		h, source, log := &History{}, &mute{err: errors.New("no API server")}, &strings.Builder{}
		done := make(chan error, 1)
		go func() { done <- h.Listen(ctx, source, slog.New(slog.NewTextHandler(log, nil))) }()
		pass(time.Hour)
		if source.asked != 0 {
			t.Errorf("nobody follows, and nodes were asked for %d times", source.asked)
		}
		leave := h.audience.enter()
		pass(3*listenAgain - 1)
		if source.asked != 3 || strings.Count(log.String(), "no API server") != 1 {
			t.Errorf("asked %d times; %s", source.asked, log)
		}
		leave()
		pass(time.Hour)
		source.asked, source.err = 0, nil
		for range 2 { // the next one is heard for, not before a pause is over
			leave = h.audience.enter()
			synctest.Wait()
			leave()
			synctest.Wait()
		}
		if source.asked != 1 {
			t.Errorf("pages that come and go have asked %d times", source.asked)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func heard(h *History, node string, lines ...map[string]any) {
	for _, line := range lines {
		var e fleet.Event
		text, err := json.Marshal(line)
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		if err != nil {
			panic(err)
		}
		h.hear(fleet.Told{Node: node, Target: node, Event: e}, noon.Add(time.Hour), slog.New(slog.DiscardHandler))
	}
}

func at(line map[string]any, after time.Duration) map[string]any {
	line["time"] = noon.Add(after)
	return line
}

// Whatever comes first, each refusal counts once, and what nodes count is what counts.
func TestWhatIsHeardAndCountedIsShownOnce(t *testing.T) {
	const s = time.Second
	type step struct {
		heard, counted time.Duration // when: one is heard, or the nodes answer
		denied         uint64        // that they count
		count, fresh   uint64        // wanted
	}
	for story, steps := range map[string][]step{
		"heard, then counted":                    {{heard: s, count: 1, fresh: 1}, {counted: 5 * s, denied: 1, count: 1}, {counted: 10 * s, denied: 1, count: 1}},
		"counted, then heard":                    {{counted: 5 * s, denied: 1, count: 1}, {heard: s, count: 1}, {counted: 10 * s, denied: 1, count: 1}},
		"counted by the second answer":           {{heard: 4 * s, count: 1, fresh: 1}, {counted: 5 * s, count: 1, fresh: 1}, {counted: 10 * s, denied: 1, count: 1}},
		"two heard, one counted, then the other": {{heard: s, count: 1, fresh: 1}, {heard: 6 * s, count: 2, fresh: 2}, {counted: 5 * s, denied: 1, count: 2, fresh: 1}, {counted: 10 * s, denied: 2, count: 2}},
		"more counted than heard":                {{heard: s, count: 1, fresh: 1}, {counted: 5 * s, denied: 7, count: 7}},
		"heard, and never counted":               {{heard: s, count: 1, fresh: 1}, {counted: 5 * s, count: 1, fresh: 1}, {counted: 10 * s}},
		"counted twice, heard thrice":            {{counted: 2 * s, denied: 2, count: 2}, {heard: 3 * s, count: 3, fresh: 1}, {counted: 5 * s, denied: 2, count: 3, fresh: 1}, {counted: 10 * s, denied: 2, count: 2}},
	} {
		h := &History{}
		h.Add([]fleet.Node{node("one", toDB(9, 0, 0, 0, noon))}, noon)
		for i, step := range steps {
			if step.counted > 0 {
				h.Add([]fleet.Node{node("one", toDB(9, 0, step.denied, 0, noon.Add(step.counted)))}, noon.Add(step.counted))
			} else {
				line := at(denied("outbound", "shop", "web"), step.heard)
				line["service"] = "shop/db"
				heard(h, "one", line)
			}
			var count, fresh uint64
			for _, r := range h.Graph(all, time.Time{}).Refusals {
				count, fresh = count+r.Count, fresh+r.Fresh
			}
			if count != step.count || fresh != step.fresh {
				t.Errorf("%s: step %d: %d, %d of them fresh; want %d, %d", story, i, count, fresh, step.count, step.fresh)
			}
		}
	}
}

// The node of the source counts it; that of the destination knows why, and speaks first.
func TestBothNodesOfAConnectionTellOfOneRefusal(t *testing.T) {
	for _, order := range []string{"destination first", "source first"} {
		h := &History{}
		h.Add([]fleet.Node{node("one"), node("two")}, noon)
		out, in := denied("outbound", "shop", "web"), denied("inbound", "shop", "web")
		out["policy"], out["error"] = nil, "http status: 401"
		in["source"].(map[string]any)["identity"] = end("shop", "web").Identity
		if order == "destination first" {
			heard(h, "two", in)
			heard(h, "one", out)
		} else {
			heard(h, "one", out)
			heard(h, "two", in)
		}
		r := h.Graph(all, time.Time{}).Refusals
		if len(r) != 1 || r[0].Count != 1 || r[0].Policy != "PeerAuthentication shop/default" || r[0].Error != "" || r[0].Node != "one" {
			t.Errorf("%s: %+v", order, r)
		}
	}
}

func TestANodeThatDoesNotAnswerKeepsWhatItTold(t *testing.T) {
	h := &History{}
	h.Add([]fleet.Node{node("one")}, noon)
	heard(h, "one", denied("outbound", "shop", "web"), map[string]any{"event": "refused", "result": "reset"})
	silent := fleet.Node{Problem: "it does not answer"}
	silent.Name = "one"
	for i := range 3 {
		h.Add([]fleet.Node{silent}, noon.Add(time.Duration(i+1)*5*time.Second))
	}
	if r := h.Graph(all, time.Time{}).Refusals; len(r) != 1 || r[0].Count != 1 {
		t.Errorf("%+v", r)
	}
	for i := range 2 { // it is none of the mesh any more
		h.Add([]fleet.Node{node("two")}, noon.Add(time.Minute+time.Duration(i)*5*time.Second))
	}
	if r := h.Graph(all, time.Time{}).Refusals; len(r) != 0 {
		t.Errorf("of a node that is gone: %+v", r)
	}
}

func TestNobodyHearsOfAnotherNamespacesRefusals(t *testing.T) {
	h, shop := secretMesh(), Sight{Namespaces: map[string]bool{"shop": true}}
	reader := said{}
	if _, err := h.next(shop, &reader); err != nil {
		t.Fatal(err)
	}
	next := func() string {
		text, err := h.next(shop, &reader)
		if err != nil || strings.Contains(text, secret) || strings.Contains(text, "10.9.9.9") || strings.Contains(text, "partner.example") {
			t.Errorf("%v: %s", err, text)
		}
		return text
	}
	within := denied("outbound", secret, secret)
	within["destination"] = map[string]any{"namespace": secret, "workload": secret, "pod": secret, "address": "10.9.9.9:1"}
	unknown := map[string]any{"event": "refused", "direction": "inbound", "result": "denied", "source": map[string]any{"address": "10.9.9.9:2"}, "destination": within["destination"]}
	heard(h, "node-"+secret, within, unknown, map[string]any{"event": "dropped", "count": 7})
	if text := next(); text != "" {
		t.Errorf("that others were refused is told: %s", text)
	}
	outward, inward, partner := denied("outbound", "shop", "web"), denied("outbound", secret, secret), denied("inbound", "", "")
	outward["destination"], outward["service"], outward["error"] = within["destination"], secret+"/svc", "by "+secret+"/x"
	inward["source"] = map[string]any{"namespace": secret, "workload": secret, "pod": secret, "identity": end(secret, secret).Identity, "address": "10.9.9.9:3"}
	inward["policy"] = "AuthorizationPolicy " + secret + "/x"
	partner["source"] = map[string]any{"identity": "spiffe://partner.example/ns/shop/sa/x", "address": "10.9.9.9:4"}
	gone := denied("inbound", secret, "") // its pod went: it has a namespace, and no owner
	gone["source"] = map[string]any{"namespace": secret, "pod": secret, "address": "10.9.9.9:5"}
	heard(h, "node-"+secret, outward, inward, partner, gone)
	text := next()
	for _, part := range []string{`"from":"shop/web","to":"(elsewhere)"`, `"from":"(elsewhere)","to":"shop/db"`} {
		if !strings.Contains(text, part) {
			t.Errorf("it lacks %s: %s", part, text)
		}
	}
	if next() != "" {
		t.Error("the same is told twice")
	}
	if text, _ := h.next(Sight{}, &reader); strings.Contains(text, "shop") {
		t.Errorf("who sees nothing hears %s", text)
	}
	everything, err := h.next(all, &reader)
	if err != nil || strings.Count(everything, `"fresh":1`) != 6 || !strings.Contains(everything, `"late":1`) {
		t.Errorf("%v: who sees all hears %s", err, everything)
	}
}

func TestAFloodOfRefusalsKeepsToItsRoom(t *testing.T) {
	h := &History{}
	h.Add([]fleet.Node{node("one")}, noon)
	heard(h, "one", denied("outbound", "shop", "web"))
	for i := range 3 * maxRefusals {
		out, in := denied("outbound", "hog", "hog"), denied("inbound", "hog", "hog")
		in["source"].(map[string]any)["identity"] = "spiffe://cluster.local/ns/hog/sa/hog"
		for _, line := range []map[string]any{out, in} {
			line["destination"], line["error"] = map[string]any{"namespace": "shop", "workload": fmt.Sprint("db-", i)}, strings.Repeat("é", maxError)
			heard(h, "one", line)
		}
	}
	kept := h.refusals.all["shop/web shop/db  denied one"]
	if len(h.refusals.all) != maxRefusals || len(h.refusals.notes) > maxNotes/5 || kept == nil || kept.Fresh != 1 {
		t.Errorf("%d refusals, %d notes, %+v", len(h.refusals.all), len(h.refusals.notes), kept)
	}
	for _, r := range h.refusals.all {
		if len(r.Error) > maxError {
			t.Fatalf("an error of %d bytes", len(r.Error))
		}
	}
}

// What a node had to drop is said until its counters have it.
func TestDropsAndNodesThatAreNotHeardAreTold(t *testing.T) {
	h := &History{}
	h.Add([]fleet.Node{node("one")}, noon)
	late := func() int { tick, _ := h.Tick(all); return tick.Late }
	heard(h, "one", map[string]any{"event": "dropped", "count": 7})
	if late() != 1 {
		t.Error("drops are not told")
	}
	log := slog.New(slog.DiscardHandler)
	h.hear(fleet.Told{Node: "one", Target: "one", Word: fleet.Silent}, noon, log)
	h.hear(fleet.Told{Node: "two", Target: "two", Word: fleet.Silent}, noon, log)
	if late() != 2 {
		t.Errorf("%d nodes are late", late())
	}
	h.hear(fleet.Told{Node: "one", Target: "one", Word: fleet.Answers}, noon, log)
	for i := range 2 {
		if h.hear(fleet.Told{Node: "two", Target: "two", Word: fleet.Gone}, noon, log); late() != 1 {
			t.Errorf("before answer %d: %d nodes are late", i, late())
		}
		h.Add([]fleet.Node{node("one")}, noon.Add(time.Duration(i+1)*5*time.Second))
	}
	if late() != 0 {
		t.Error("its counters have it, and it is late")
	}
}
