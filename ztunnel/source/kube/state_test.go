// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// stored runs a source against a server until it is known, and returns where its
// last good state is.
func stored(t *testing.T, server *apiServer) (o Options, good source.Snapshot) {
	t.Helper()
	o = options(server)
	o.State = filepath.Join(t.TempDir(), "workloads")
	w := start(t, o)
	w.until("the first", anySnapshot)
	w.stop()
	return o, w.last
}

func TestAStartWithoutTheAPIServerGoesByTheLastGoodState(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(peerAuthentications)
	server.Offer(authorizationPolicies)
	server.Set(peerAuthentication(t, "v1", "ports", `{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {"8080": {mode: PERMISSIVE}}}`))
	server.Set(custom(t, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: shop}}`))
	server.Offer(networkPolicies)
	server.Set(custom(t, `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: shop}, spec: {podSelector: {matchLabels: {app: web}}, ingress: [`+
		`{from: [{podSelector: {}}, {namespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}, {port: http}]}]}}`))
	o, good := stored(t, server)

	server.stop()
	w := start(t, o)
	w.until("the stored one", anySnapshot)
	good.Mesh.Stored = true // which says that it may be older than a label
	same := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}, spiffeid.ID{})
	if diff := cmp.Diff(good, w.last, same, cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("what was stored is not what was good: %s", diff)
	}
	if stats := w.source.Stats(); stats.Stored.IsZero() || stats.Generation != 1 || !strings.Contains(stats.LastError, "connection refused") {
		t.Errorf("%+v", stats)
	}

	server.Set(namespace(t, "shop", "culvert.dev/mesh: disabled"), pod(t, "web-2", 2))
	server.Delete(pod(t, "web-1", 1))
	server.start()
	w.until("what the API server says", func(s source.Snapshot) bool { return names(s) == "web-2" && !s.Mesh.Workloads[0].Meshed })
	if w.last.Version != 2 {
		t.Errorf("version %d: between the stored state and a whole new one nothing may be delivered", w.last.Version)
	}
	if stats := w.source.Stats(); !stats.Stored.IsZero() || w.last.Mesh.Stored {
		t.Errorf("still of the file: %+v, snapshot %v", stats, w.last.Mesh.Stored)
	}
}

func TestAnAPIServerThatNeverAnswersIsNotWaitedFor(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o, _ := stored(t, server)
	server.stop()
	silent, err := net.Listen("tcp", server.address) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := time.Now()
	w := start(t, o)
	w.until("the stored one", meshed("web-1"))
	if took := time.Since(began); took < answerWithin {
		t.Errorf("taken after %v, although the API server had not failed", took)
	}
}

func TestWhileTheAPIServerAnswersTheStoredStateIsNotTaken(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o, _ := stored(t, server)
	server.Delete(pod(t, "web-1", 1))
	server.Set(pod(t, "web-2", 2))
	w := start(t, o)
	w.until("the first", anySnapshot)
	if got := names(w.last); got != "web-2" {
		t.Errorf("pods %s", got)
	}
}

// What stood in force must not go because its kind is not served, nor CIDRs because
// their Nodes went while nobody looked.
func TestWhatIsStoredIsRememberedUntilTheAPIServerSaysSomethingElse(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(peerAuthentications)
	server.Set(peerAuthentication(t, "v1", "strict", `{mtls: {mode: STRICT}}`))
	o, _ := stored(t, server)
	server.Drop(peerAuthentications)
	server.Delete(cluster(t)[1])
	w := start(t, o)
	w.until("the live one", func(s source.Snapshot) bool { return len(s.Mesh.Nodes) == 1 && w.source.Stats().Stored.IsZero() })
	if got := policies(w.last); got != "strict STRICT map[]\n" {
		t.Errorf("policies %q", got)
	}
	if got := fmt.Sprint(w.last.Mesh.CIDRs); got != "[10.1.0.0/24 10.96.0.0/12]" {
		t.Errorf("CIDRs %s", got)
	}
	server.Offer(peerAuthentications)
	w.until("the kind is served, and empty", inForce(""))
}

func TestAStateFileThatIsNotWholeIsNotTaken(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o, _ := stored(t, server)
	whole, err := os.ReadFile(o.State)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(data []byte, says string) {
		t.Helper()
		if err := os.WriteFile(o.State, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := readState(o.State, server.of()); err == nil || !strings.Contains(err.Error(), o.State+" "+says) {
			t.Fatalf("%d of %d bytes: %v, %v; want %s", len(data), len(whole), s, err, says)
		}
	}
	body := bytes.IndexByte(whole, '\n') + 1
	flipped := bytes.Clone(whole)
	flipped[body+100] ^= 1
	refused(flipped, "is not as it was written")
	refused(append(bytes.Clone(whole), whole...), "is not as it was written")
	refused(bytes.Replace(whole, []byte("format 2"), []byte("format 1"), 1), "has format 1; this version reads format 2")
	newer := append(bytes.TrimSuffix(bytes.Clone(whole[body:]), []byte("}")), `,"Mood":"good"}`...)
	refused(fmt.Appendf(nil, stateHeader+"%s", stateFormat, len(newer), sha256.Sum256(newer), newer), "is of another version: ")
	for n := range body {
		refused(whole[:n], "")
	}
	for n := body; n < len(whole); n += 97 {
		refused(whole[:n], fmt.Sprintf("is cut off after %d of %d bytes", n-body, len(whole)-body))
	}

	server.stop()
	failures := make(chan error, 10)
	o.OnError = func(err error) { failures <- err }
	w := start(t, o)
	if err := <-failures; !strings.Contains(err.Error(), "is cut off") {
		t.Error(err)
	}
	w.none("there is no good state")
	server.start()
	w.until("the live one", meshed("web-1"))
	w.stop()
	if s, err := readState(o.State, server.of()); err != nil || len(s.Mesh.Workloads) != 1 {
		t.Errorf("it was not written anew: %v", err)
	}
}

func TestALargeStateFileIsWrittenSeldomAndAtTheEnd(t *testing.T) {
	for _, c := range []struct {
		size int
		took time.Duration
		want time.Duration
	}{{10 << 10, time.Millisecond, 10 * time.Second}, {2 << 20, 40 * time.Millisecond, 2 << 20 * time.Second / (100 << 10)}, {2 << 20, time.Second, 200 * time.Second}} {
		if got := restAfter(c.size, c.took); got != c.want {
			t.Errorf("%d bytes in %v: not again for %v, want %v", c.size, c.took, got, c.want)
		}
	}

	synctest.Test(t, func(t *testing.T) {
		s := &Source{poked: make(chan struct{}, 1), health: newHealth(), builder: source.NewBuilder(source.Options{}), live: true}
		s.options = Options{State: filepath.Join(t.TempDir(), "workloads"), Log: slog.New(slog.DiscardHandler), OnError: func(error) {}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		s.rested = time.Now().Add(35 * time.Second) // after a large one
		go func() {
			s.deliver(ctx, nil)
			close(done)
		}()
		time.Sleep(34 * time.Second)
		if exists(s.options.State) {
			t.Error("it was written before its time")
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait() // Run does not look at rested in the middle of a second
		if !exists(s.options.State) {
			t.Error("it was not written in its time")
		}
		os.Remove(s.options.State)
		s.rested = time.Now().Add(time.Hour)
		cancel()
		<-done
		if !exists(s.options.State) {
			t.Error("it was not written at the end")
		}
	})
}

func TestWhoIsInTheMeshIsInTheStateFileWithinASecondOrTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Source{poked: make(chan struct{}, 1), health: newHealth(), builder: source.NewBuilder(source.Options{}), live: true}
		s.options = Options{State: filepath.Join(t.TempDir(), "workloads"), Log: slog.New(slog.DiscardHandler), OnError: func(error) {}}
		s.rested = time.Now().Add(time.Hour) // after a very large one
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			s.deliver(ctx, nil)
			close(done)
		}()
		written := func(label string) bool {
			os.Remove(s.options.State)
			s.mu.Lock()
			err := s.builder.Set(namespace(t, "shop", label))
			s.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			return exists(s.options.State)
		}
		if written("team: shop") {
			t.Error("a label that decides nothing had it written before its time")
		}
		if !written("culvert.dev/mesh: enabled") {
			t.Error("the namespace came into the mesh, and the file does not say so")
		}
		cancel()
		<-done
	})
}

// of is what options of the server lead to.
func (s *apiServer) of() of {
	return of{Server: "http://" + s.address, TrustDomain: "cluster.local"}
}

func TestAStateOfOtherOptionsIsNotTaken(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o, _ := stored(t, server)
	for _, other := range []of{
		{Server: "https://other", TrustDomain: "cluster.local"},
		{Server: server.of().Server, TrustDomain: "other"},
		{Server: server.of().Server, TrustDomain: "cluster.local", RootNamespace: "mesh"},
		{Server: server.of().Server, TrustDomain: "cluster.local", IgnoreIstioLabels: true},
	} {
		if _, err := readState(o.State, other); err == nil || !strings.Contains(err.Error(), "this is {Server:"+other.Server) {
			t.Errorf("%+v: %v", other, err)
		}
	}
}

func TestTheStateFileIsWrittenAgainWhenItIsGoneAndLeftWhenItCannotBe(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	o := options(server)
	dir := filepath.Join(t.TempDir(), "state")
	o.State = filepath.Join(dir, "workloads")
	failures := make(chan error, 10)
	o.OnError = func(err error) { failures <- err }
	w := start(t, o)
	w.until("the first", anySnapshot)

	w.stop() // there is no directory
	if err := <-failures; !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"it could not be written before", "it was removed"} {
		w.source.save()
		if st, err := os.Stat(o.State); err != nil || st.Mode() != 0o600 {
			t.Fatalf("%s: %v %v", why, st, err)
		}
		os.Remove(o.State)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
