// SPDX-License-Identifier: Apache-2.0

package workloadapi

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(asCaller); path != "" {
		call(path)
		return
	}
	os.Exit(env.CheckLeaks(m))
}

var (
	td  = spiffeid.RequireTrustDomainFromString("cluster.local")
	web = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
	db  = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/db")
)

// node is what the server asks: whose process it is, and what that one gets.
type node struct {
	path string

	mu      sync.Mutex // guards what follows
	pod     string     // of this process; "": of none
	id      spiffeid.ID
	pids    []int // that were asked about
	root    *certstest.Signer
	leaf    *certstest.Signer
	changed chan struct{}
	exports int // keys that were given away
	log     records
}

// records are what the server logs.
type records struct {
	mu    sync.Mutex // guards lines
	lines int
}

func (r *records) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines++
	return len(line), nil
}

func (r *records) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // short: it is a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{path: filepath.Join(dir, "sockets", "api.sock"), pod: "u1", id: web, root: certstest.NewCA(), changed: make(chan struct{})}
	n.rotate()
	ln, err := Listen(n.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := New(Config{TrustDomain: td, Caller: n.caller, Export: n.export, Bundle: n.bundle, Log: slog.New(slog.NewTextHandler(&n.log, nil))})
	go func() { done <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) caller(pid int) (string, spiffeid.ID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pids = append(n.pids, pid)
	if n.pod == "" {
		return "", spiffeid.ID{}, errors.New("it is nobody's")
	}
	return n.pod, n.id, nil
}

func (n *node) export(_ context.Context, id spiffeid.ID) (certs.Exported, <-chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.exports++
	key, err := x509.MarshalPKCS8PrivateKey(n.leaf.Key)
	if id != n.id {
		err = fmt.Errorf("%v is asked for", id)
	}
	return certs.Exported{Chain: [][]byte{n.leaf.Cert.Raw}, Key: key, Roots: [][]byte{n.root.Cert.Raw}}, n.changed, err
}

func (n *node) bundle() ([][]byte, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return [][]byte{n.root.Cert.Raw}, n.changed
}

// set changes what the server hears, and tells it.
func (n *node) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) given() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.exports
}

func (n *node) rotate() {
	n.set(func() { n.leaf = n.root.Leaf(n.id) })
}

func (n *node) address() workloadapi.ClientOption { return workloadapi.WithAddr("unix://" + n.path) }

// A004-5, A004-6: what a client of SPIFFE's gets, and that it is told of each rotation.
func TestAPodGetsItsOwnIdentityAndEachThatFollows(t *testing.T) {
	n := newNode(t)
	source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClientOptions(n.address()))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for round := range 5 {
		own, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if own.ID != web || !own.Certificates[0].Equal(n.leaf.Cert) {
			t.Errorf("round %d: %v, serial %v, want %v", round, own.ID, own.Certificates[0].SerialNumber, n.leaf.Cert.SerialNumber)
		}
		bundle, err := source.GetX509BundleForTrustDomain(td)
		if err != nil || !bundle.HasX509Authority(n.root.Cert) {
			t.Errorf("round %d: bundle %v, %v", round, bundle, err)
		}
		updated := source.Updated()
		n.rotate()
		select {
		case <-updated:
		case <-time.After(30 * time.Second):
			t.Fatal("the rotation was not pushed")
		}
	}
	for _, pid := range n.pids {
		if pid != os.Getpid() {
			t.Errorf("process %d is asked about, want %d", pid, os.Getpid())
		}
	}
	before := n.given()
	set, err := workloadapi.FetchX509Bundles(t.Context(), n.address())
	if err != nil || set.Len() != 1 {
		t.Errorf("bundles %v, %v", set, err)
	}
	if n.given() != before {
		t.Error("a key was read for who asks for the bundle only")
	}
}

func TestWhoIsOfNoPodGetsNothing(t *testing.T) {
	n := newNode(t)
	n.set(func() { n.pod = "" })
	if _, err := workloadapi.FetchX509SVID(t.Context(), n.address()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, want PermissionDenied", err)
	}
	if _, err := workloadapi.FetchX509Bundles(t.Context(), n.address()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, want PermissionDenied", err)
	}
}

// A process may connect before its pod is known: while ztunnel restarts, or before the pod's
// label is set. Clients ask again on the connection that they have.
func TestACallerWhosePodIsKnownLaterIsServedOnItsConnection(t *testing.T) {
	n := newNode(t)
	n.set(func() { n.pod = "" })
	_, conn, err := stream(t, n, "workload.spiffe.io", "true")
	if status.Code(err) != codes.PermissionDenied {
		t.Fatalf("%v, want PermissionDenied", err)
	}
	n.set(func() { n.pod = "u1" })
	s, err := streamOn(t, conn, "workload.spiffe.io", "true")
	if err != nil {
		t.Fatalf("its pod is known, and it gets %v", err)
	}
	n.set(func() { n.pod = "u2" })
	if _, err := s.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("of another pod all at once: %v, want PermissionDenied", err)
	}
}

// Whoever connected while of no pod may not have more places of its pod for that.
func TestAConnectionOfNoPodTakesAPlaceOfItsPodLater(t *testing.T) {
	n := newNode(t)
	n.set(func() { n.pod = "" })
	early := make([]*grpc.ClientConn, 2)
	for i := range early {
		_, early[i], _ = stream(t, n, "workload.spiffe.io", "true")
	}
	n.set(func() { n.pod = "u1" })
	for range maxConnectionsPod - 1 {
		if _, _, err := stream(t, n, "workload.spiffe.io", "true"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := streamOn(t, early[0], "workload.spiffe.io", "true"); err != nil {
		t.Errorf("the last place: %v", err)
	}
	if _, err := streamOn(t, early[1], "workload.spiffe.io", "true"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("one more: %v, want PermissionDenied", err)
	}
	n.set(func() { n.pod = "" })
	for range maxConnectionsPod - 1 { // the one that moved left its place to others
		if _, _, err := stream(t, n, "workload.spiffe.io", "true"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("of no pod: %v, want PermissionDenied", err)
		}
	}
}

func withHeader(ctx context.Context, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// stream opens one on a connection of its own, and takes the first answer.
func stream(t *testing.T, n *node, pairs ...string) (s grpc.ServerStreamingClient[workload.X509SVIDResponse], conn *grpc.ClientConn, err error) {
	t.Helper()
	conn, err = grpc.NewClient("unix://"+n.path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s, err = streamOn(t, conn, pairs...)
	return s, conn, err
}

// streamOn opens one, and takes the first answer.
func streamOn(t *testing.T, conn *grpc.ClientConn, pairs ...string) (s grpc.ServerStreamingClient[workload.X509SVIDResponse], err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	if s, err = workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(withHeader(ctx, pairs...), &workload.X509SVIDRequest{}); err == nil {
		_, err = s.Recv()
	}
	return s, err
}

// A pod that leaves the mesh, or whose process is another pod's all at once, gets no more.
func TestAStreamEndsWithTheRightToIt(t *testing.T) {
	for name, change := range map[string]func(*node){
		"no pod":      func(n *node) { n.pod = "" },
		"another pod": func(n *node) { n.pod = "u2" },
		"another's":   func(n *node) { n.id = db },
	} {
		n := newNode(t)
		s, _, err := stream(t, n, "workload.spiffe.io", "true")
		if err != nil {
			t.Fatal(err)
		}
		n.set(func() { change(n) })
		if _, err := s.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PermissionDenied", name, err)
		}
	}
}

// SPIFFE Workload Endpoint, 6.2: so that no browser can be made to ask.
func TestARequestWithoutTheHeaderIsRefused(t *testing.T) {
	n := newNode(t)
	for _, pairs := range [][]string{nil, {"workload.spiffe.io", "false"}} {
		if _, _, err := stream(t, n, pairs...); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v, want InvalidArgument", pairs, err)
		}
	}
}

func TestOnePodTakesNoMoreThanItsPlaces(t *testing.T) {
	n := newNode(t)
	var last *grpc.ClientConn
	for range maxConnectionsPod {
		_, conn, err := stream(t, n, "workload.spiffe.io", "true")
		if err != nil {
			t.Fatal(err)
		}
		last = conn
	}
	if _, _, err := stream(t, n, "workload.spiffe.io", "true"); status.Code(err) != codes.Unavailable {
		t.Errorf("one connection more: %v, want Unavailable", err)
	}
	for range 3 {
		if conn, err := net.Dial("unix", n.path); err == nil {
			_, _ = conn.Read(make([]byte, 1)) // until it is closed
			conn.Close()
		}
	}
	if lines := n.log.count(); lines != 1 {
		t.Errorf("%d records say that it has too many, want one a minute", lines)
	}
	n.set(func() { n.pod = "u2" })
	if _, _, err := stream(t, n, "workload.spiffe.io", "true"); err != nil {
		t.Errorf("another pod: %v", err)
	}
	last.Close()
	n.set(func() { n.pod = "u1" })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, conn, err := stream(t, n, "workload.spiffe.io", "true")
		conn.Close()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("a place is free, and none is given: %v", err)
		}
	}
}

func TestAConnectionMayNotCallAllTheTime(t *testing.T) {
	n := newNode(t)
	n.set(func() { n.pod = "" }) // so that each call ends
	_, conn, err := stream(t, n, "workload.spiffe.io", "true")
	for range 1000 {
		if status.Code(err) != codes.PermissionDenied {
			break
		}
		_, err = streamOn(t, conn, "workload.spiffe.io", "true")
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v, want ResourceExhausted", err)
	}
}

// asCaller is set in a process that connects and waits.
const asCaller = "WORKLOAD_API_CALLER_OF"

func call(path string) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Println("connected")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// Its pid may be another process's by the time that it is asked about.
func TestAProcessThatHasEndedIsNobody(t *testing.T) {
	ln, err := Listen(filepath.Join(t.TempDir(), "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asCaller+"="+ln.Addr().String()[:len(ln.Addr().String())-len(".new")])
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !bufio.NewScanner(out).Scan() {
		t.Fatal("the process did not connect")
	}
	conn, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	process, err := peerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer process.close()
	if pid, err := process.pid(); pid != cmd.Process.Pid || err != nil {
		t.Errorf("pid %d, %v; want %d", pid, err, cmd.Process.Pid)
	}
	if err := process.alive(); err != nil {
		t.Error(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	who := &caller{process: process}
	if _, _, err := who.ask(func(int) (string, spiffeid.ID, error) { return "u1", web, nil }); err == nil {
		t.Error("the process has ended, and is somebody")
	}
	if err := process.alive(); !errors.Is(err, errEnded) {
		t.Errorf("alive: %v", err)
	}
	// That it ended is asked for after the pod, and with its first descriptor, too.
	if late, err := peerOf(conn); err == nil {
		defer late.close()
		if _, err := late.pid(); err == nil {
			t.Error("its pid is told")
		}
	}
}

func TestADirectoryOfOthersHasNoSocketOfOurs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if ln, err := Listen(filepath.Join(dir, "api.sock")); err == nil {
		ln.Close()
		t.Error("it is taken")
	}
	if err := Supported(); err != nil {
		t.Error(err)
	}
}

// Each of these is said before a pod is steered, not when the API is to be served.
func TestAPathThatCannotBeServedIsRefusedAtStart(t *testing.T) {
	dir, err := os.MkdirTemp("", "api") // short: it is a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	within := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	left, shared, writable, file, folder := within("left"), within("shared"), within("writable"), within("file"), within("folder")
	for range 2 { // one of an earlier ztunnel
		ln, err := Listen(filepath.Join(left, "api.sock"))
		must(err)
		must(ln.Close())
	}
	must(os.WriteFile(filepath.Join(shared, "another"), nil, 0o600))
	must(os.Chmod(writable, 0o775))
	must(os.WriteFile(filepath.Join(file, "api.sock"), nil, 0o600))
	must(os.MkdirAll(filepath.Join(folder, "api.sock.new"), 0o700))
	must(os.Symlink(left, filepath.Join(dir, "link")))
	long := func(bytes int) string { return "/" + strings.Repeat("d", bytes-len("//api.sock")) + "/api.sock" }
	for _, row := range []struct{ path, want string }{
		{filepath.Join(dir, "none", "api.sock"), ""},
		{filepath.Join(left, "api.sock"), ""},
		{filepath.Join(shared, "api.sock"), "for pods to mount, and for nothing else"},
		{filepath.Join(writable, "api.sock"), "may be written by others"},
		{filepath.Join(file, "api.sock"), "is not a socket"},
		{filepath.Join(folder, "api.sock"), "is not a socket"},
		{filepath.Join(dir, "link", "api.sock"), "is not a directory"},
		{filepath.Join(shared, "another", "api.sock"), "is not a directory"},
		{"/api.sock", "for nothing else"},
		{long(103), ""},
		{long(104), "longer than the 103 bytes"},
	} {
		switch err := Check(row.path); {
		case row.want == "" && err != nil, row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %v, want %q", row.path, err, row.want)
		}
	}
}
