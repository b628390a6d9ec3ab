// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

const (
	nodesOfFixture  = 10
	spacesOfFixture = 12
)

// fixture is the dumps of ztunnels that are none. Their counters grow with each answer.
type fixture struct {
	servers []*httptest.Server

	mu        sync.Mutex // guards what follows
	random    *rand.Rand
	workloads []map[string]any
	pods      []map[string]any // by node
	edges     [][]map[string]any
	listeners map[chan map[string]any]bool // of all nodes

	held chan struct{} // closed when nodes answer no questions from now on
	hold sync.Once     // closes held
}

func newFixture(workloads, edges int) (*fixture, []string, error) {
	f := &fixture{random: rand.New(rand.NewPCG(1, 2)), pods: make([]map[string]any, nodesOfFixture), edges: make([][]map[string]any, nodesOfFixture), held: make(chan struct{})}
	for i := range f.pods {
		f.pods[i] = map[string]any{}
	}
	for i := range workloads {
		f.addWorkload(i)
	}
	for i, known := 0, map[[2]int]bool{}; i < edges; {
		from, to := f.random.IntN(workloads), f.near(workloads)
		if from == to || known[[2]int{from, to}] {
			continue
		}
		known[[2]int{from, to}] = true
		f.addEdge(i, from, to)
		i++
	}
	var addresses []string
	for i := range nodesOfFixture {
		server := httptest.NewServer(f.handler(i))
		f.servers = append(f.servers, server)
		addresses = append(addresses, server.Listener.Addr().String())
	}
	return f, addresses, nil
}

// near prefers some workloads, as servers are few.
func (f *fixture) near(workloads int) int {
	return min(f.random.IntN(workloads), f.random.IntN(workloads), f.random.IntN(workloads))
}

func space(i int) string { return fmt.Sprintf("team-%02d", i%spacesOfFixture) }
func owner(i int) string { return fmt.Sprintf("app-%03d", i) }
func identity(i int) string {
	return fmt.Sprintf("spiffe://cluster.local/ns/%s/sa/%s", space(i), owner(i))
}

func (f *fixture) addWorkload(i int) {
	node, uid := i%nodesOfFixture, fmt.Sprintf("uid-%d", i)
	f.workloads = append(f.workloads, map[string]any{
		"UID": uid, "Namespace": space(i), "Name": owner(i) + "-0", "Owner": owner(i), "Node": fmt.Sprintf("node%d", node), "ID": identity(i),
		"Addrs": []string{fmt.Sprintf("10.%d.%d.9", i/250, i%250)}, "Meshed": i%40 != 7, "Ready": true,
	})
	if i%40 != 7 {
		f.pods[node][uid] = map[string]any{"state": "enrolled", "identity": identity(i), "certificate": map[string]any{"state": "valid"}, "sandbox": map[string]any{"namespace": space(i), "name": owner(i) + "-0"}}
	}
}

func (f *fixture) addEdge(i, from, to int) {
	end := func(i int) map[string]any {
		return map[string]any{"namespace": space(i), "workload": owner(i), "identity": identity(i)}
	}
	e := map[string]any{
		"direction": "outbound", "source": end(from), "destination": end(to), "service": space(to) + "/" + owner(to), "port": 8080, "secured": true,
		"opened": 1, "open": 0, "bytesSent": 1000, "bytesRecv": 1000, "last": time.Now().Add(-time.Hour),
	}
	switch {
	case i%25 == 3:
		e["secured"], e["reason"], e["destination"] = false, "outside", map[string]any{"namespace": space(to), "workload": owner(to)}
	case i%50 == 9:
		e["refused"] = map[string]int{"denied": 1}
	}
	f.edges[from%nodesOfFixture] = append(f.edges[from%nodesOfFixture], e)
}

func (f *fixture) handler(node int) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config_dump", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-f.held:
			<-r.Context().Done() // whoever asks gives up
			return
		default:
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.grow(node)
		_ = json.NewEncoder(w).Encode(map[string]any{ // a client that went is no matter
			"config": map[string]any{"NodeName": fmt.Sprintf("node%d", node), "TrustDomain": "cluster.local"}, "ca": map[string]any{"ready": true, "reason": "signs"},
			"workloads": f.workloads, "workloadState": f.pods[node], "edges": f.edges[node], "certificates": []any{}, "policyObjects": map[string]any{"RootNamespace": "istio-system"},
		})
	})
	mux.HandleFunc("GET /events", f.events)
	return mux
}

func (f *fixture) events(w http.ResponseWriter, r *http.Request) {
	told := make(chan map[string]any)
	f.mu.Lock()
	if f.listeners == nil {
		f.listeners = map[chan map[string]any]bool{}
	}
	f.listeners[told] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.listeners, told)
	}()
	w.WriteHeader(http.StatusOK)
	for {
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case e := <-told:
			_ = json.NewEncoder(w).Encode(e) // a client that went is no matter
		case <-r.Context().Done():
			return
		}
	}
}

// grow has two thirds of a node's edges carry something.
func (f *fixture) grow(node int) {
	for i, e := range f.edges[node] {
		if f.random.IntN(3) == 0 {
			continue
		}
		e["opened"], e["open"], e["last"] = e["opened"].(int)+1+f.random.IntN(40), f.random.IntN(4), time.Now()
		e["bytesSent"] = e["bytesSent"].(int) + f.random.IntN(1<<uint(8+i%16))
		if words, refuses := e["refused"].(map[string]int); refuses && f.random.IntN(4) == 0 {
			words["denied"]++
		}
	}
}

// do is one of: hold (nodes answer no questions any more, but go on telling what happens),
// refuse NAMESPACE/WORKLOAD NAMESPACE/WORKLOAD. A node tells of that, and counts nothing.
func (f *fixture) do(_ context.Context, line string) (string, error) {
	words := strings.Fields(line)
	switch {
	case line == "hold":
		f.hold.Do(func() { close(f.held) })
		return "held", nil
	case len(words) != 3 || words[0] != "refuse":
		return "", fmt.Errorf("%q: want hold, or refuse NAMESPACE/WORKLOAD NAMESPACE/WORKLOAD", line)
	}
	end := func(name string) map[string]any {
		namespace, workload, _ := strings.Cut(name, "/")
		return map[string]any{"namespace": namespace, "workload": workload, "pod": workload + "-0"}
	}
	e := map[string]any{
		"event": "refused", "time": time.Now(), "direction": "outbound", "result": "denied", "policy": "AuthorizationPolicy team-00/till",
		"source": end(words[1]), "destination": end(words[2]),
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for told := range f.listeners {
		select {
		case told <- e:
			return "told", nil
		default: // it writes still, or has gone
		}
	}
	return "", errors.New("nobody listens")
}

func (f *fixture) close() error {
	for _, s := range f.servers {
		s.Config.SetKeepAlivesEnabled(false)
		s.CloseClientConnections()
		s.Close()
	}
	return nil
}
