// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

const patience = 30 * time.Second

// story is a running source and what it said.
type story struct {
	t         *testing.T
	dir       string
	source    *Source
	snapshots chan source.Snapshot
	errors    chan error
}

// begin runs a source on dir until the test ends. Its polls are far apart, so
// that what is seen earlier was seen by an event.
func begin(t *testing.T, dir string, poll time.Duration) *story {
	t.Helper()
	s := &story{t: t, dir: dir, snapshots: make(chan source.Snapshot, 1000), errors: make(chan error, 1000)}
	s.source = New(dir, Options{
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"),
		Settle:      10 * time.Millisecond, Confirm: 50 * time.Millisecond, Poll: poll,
		OnError: func(err error) { s.errors <- err },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.source.Run(ctx, func(snap source.Snapshot) { s.snapshots <- snap }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func (s *story) write(name, text string) {
	s.t.Helper()
	put(s.t, filepath.Join(s.dir, name), text)
}

// put writes a file at once: on a slow machine, one that is written in its place may be read
// between its beginning and its end, as in half_test.go.
func put(t *testing.T, path, text string) {
	t.Helper()
	tmp := filepath.Join(filepath.Dir(path), ".put")
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, path)); err != nil {
		t.Fatal(err)
	}
}

func (s *story) next() source.Snapshot {
	s.t.Helper()
	select {
	case snap := <-s.snapshots:
		return snap
	case err := <-s.errors:
		s.t.Fatalf("an error, not a snapshot: %v", err)
	case <-time.After(patience):
		s.t.Fatalf("no snapshot; %+v", s.source.Stats())
	}
	return source.Snapshot{}
}

// until takes snapshots, and errors of what was half done, until one fits.
func (s *story) until(fits func(source.Snapshot) bool) source.Snapshot {
	s.t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case snap := <-s.snapshots:
			if fits(snap) {
				return snap
			}
		case <-deadline:
			s.t.Fatalf("no such snapshot; %+v", s.source.Stats())
		}
	}
}

func (s *story) nextError() error {
	s.t.Helper()
	select {
	case err := <-s.errors:
		return err
	case snap := <-s.snapshots:
		s.t.Fatalf("a snapshot, not an error: %v", pods(snap))
	case <-time.After(patience):
		s.t.Fatal("no error")
	}
	return nil
}

// eventually waits for what no snapshot or error tells.
func (s *story) eventually(holds func() bool) {
	s.t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(patience); !holds(); {
		select {
		case <-again.C:
		case <-deadline:
			s.t.Fatalf("it does not come to pass; %+v", s.source.Stats())
		}
	}
}

// quiet is called after something else was answered: nothing may be left over.
func (s *story) quiet() {
	s.t.Helper()
	select {
	case snap := <-s.snapshots:
		s.t.Errorf("one more snapshot: version %d, %v", snap.Version, pods(snap))
	case err := <-s.errors:
		s.t.Errorf("one more error: %v", err)
	default:
	}
}

func pods(snap source.Snapshot) []string {
	var out []string
	for _, w := range snap.Mesh.Workloads {
		out = append(out, w.Name)
	}
	slices.Sort(out)
	return out
}

func has(names ...string) func(source.Snapshot) bool {
	return func(snap source.Snapshot) bool { return slices.Equal(pods(snap), names) }
}

func podYAML(name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, uid: u-%s}\nspec: {containers: [{name: c}]}\nstatus: {phase: Running}\n", name, name)
}

func TestASnapshotForEachChangeOfTheDirectory(t *testing.T) {
	dir := t.TempDir()
	s := begin(t, dir, time.Hour)
	if snap := s.next(); snap.Version != 1 || len(snap.Mesh.Workloads) != 0 || snap.Policies.RootNamespace != "istio-system" {
		t.Errorf("an empty directory: %+v", snap)
	}
	s.write("a.yaml", podYAML("a"))
	s.until(has("a"))
	s.write("b.yml", podYAML("b"))
	s.until(has("a", "b"))
	s.write("a.yaml", podYAML("a2"))
	s.until(has("a2", "b"))
	if err := os.Remove(filepath.Join(dir, "b.yml")); err != nil {
		t.Fatal(err)
	}
	last := s.until(has("a2"))
	st := s.source.Stats()
	if st.Generation != last.Version || st.Files != 1 || st.Objects != 1 || st.LastError != "" || st.InForce.IsZero() {
		t.Errorf("stats %+v, last version %d", st, last.Version)
	}
}

func TestWhatDoesNotCountChangesNothing(t *testing.T) {
	s := begin(t, t.TempDir(), time.Hour)
	s.write("a.yaml", podYAML("a"))
	s.until(has("a"))
	version := s.source.Stats().Generation
	s.write("README.md", "not YAML")
	s.write(".hidden.yaml", "a: [")
	s.write("a.yaml~", "a: [")
	if err := os.Mkdir(filepath.Join(s.dir, "folder.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.write("a.yaml", podYAML("a")) // the same again
	s.write("b.yaml", podYAML("b"))
	if snap := s.until(has("a", "b")); snap.Version != version+1 {
		t.Errorf("version %d after %d", snap.Version, version)
	}
	s.quiet()
}

func TestTheLastGoodSnapshotStaysInForce(t *testing.T) {
	s := begin(t, t.TempDir(), time.Hour)
	s.write("a.yaml", podYAML("a"))
	s.until(has("a"))
	good := s.source.Stats().Generation

	s.write("b.yaml", podYAML("b")+"---\nkind: Pod\n")
	s.until(has("a", "b"))
	if err := s.nextError(); err.Error() != "b.yaml: document 2: Pod: apiVersion: required" {
		t.Errorf("error %v", err)
	}
	if st := s.source.Stats(); st.Generation != good+1 || st.LastError == "" || st.Failures != 1 || st.Objects != 2 {
		t.Errorf("stats %+v", st)
	}
	s.write("c.yaml", podYAML("c")) // b.yaml is still wrong: not a new problem
	s.until(has("a", "b", "c"))
	s.write("b.yaml", podYAML("b"))
	s.eventually(func() bool { return s.source.Stats().LastError == "" })
	s.quiet()
}

func TestWithoutAGoodStateNothingIsDelivered(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("a: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	s := begin(t, dir, time.Hour)
	if err := s.nextError(); !strings.HasPrefix(err.Error(), "a.yaml: document 1: yaml: ") {
		t.Errorf("error %v", err)
	}
	s.write("a.yaml", podYAML("a"))
	if snap := s.next(); snap.Version != 1 || !has("a")(snap) {
		t.Errorf("version %d, %v", snap.Version, pods(snap))
	}
}

func TestOneProblemIsReportedOnce(t *testing.T) {
	s := begin(t, t.TempDir(), 15*time.Millisecond)
	s.next()
	if err := os.Symlink("nowhere", filepath.Join(s.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	// A link may point nowhere for a moment; this one does for longer, and
	// is looked at again with every poll.
	if err := s.nextError(); err.Error() != "a.yaml: no such file or directory" {
		t.Errorf("error %v", err)
	}
	s.eventually(func() bool { return s.source.Stats().Failures >= 2 })
	s.quiet()
	s.write("nowhere", podYAML("a"))
	s.until(has("a"))
}

func TestAFileThatIsEmptiedDeletesNothing(t *testing.T) {
	s := begin(t, t.TempDir(), time.Hour)
	s.write("a.yaml", podYAML("a"))
	s.until(has("a"))
	s.write("a.yaml", "") // as a writer does who then is slow
	if err := s.nextError(); err.Error() != "a.yaml: empty; delete the file to delete its objects" {
		t.Errorf("error %v", err)
	}
	s.write("a.yaml", podYAML("a"))
	s.eventually(func() bool { return s.source.Stats().LastError == "" })
	s.quiet() // the same as before: no new snapshot
}

func TestAnAtomicRenameIsSeen(t *testing.T) {
	s := begin(t, t.TempDir(), time.Hour)
	s.write("a.yaml", podYAML("a"))
	s.until(has("a"))
	s.write(".a.yaml.tmp", podYAML("b"))
	if err := os.Rename(filepath.Join(s.dir, ".a.yaml.tmp"), filepath.Join(s.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	s.until(has("b"))
}

// TestAMountedConfigMapIsSeenToChange does what the kubelet's atomic writer
// does: files are links into ..data, which is a link to a directory of a version.
func TestAMountedConfigMapIsSeenToChange(t *testing.T) {
	dir := t.TempDir()
	publish := func(version string, files ...string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			err := os.WriteFile(filepath.Join(dir, version, name+".yaml"), []byte(podYAML(name+version[2:])), 0o600)
			if err != nil {
				t.Fatal(err)
			}
		}
		tmp := filepath.Join(dir, "..data_tmp")
		if err := errors.Join(os.Symlink(version, tmp), os.Rename(tmp, filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name string) {
		t.Helper()
		if err := os.Symlink(filepath.Join("..data", name+".yaml"), filepath.Join(dir, name+".yaml")); err != nil {
			t.Fatal(err)
		}
	}
	publish("..1", "a", "b")
	link("a")
	link("b")
	s := begin(t, dir, time.Hour)
	s.until(has("a1", "b1"))
	publish("..2", "a", "b")
	s.until(has("a2", "b2"))
	publish("..3", "a") // the link to b points nowhere until it is removed
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	s.until(has("a3"))
	s.quiet()
}

func TestAWriteThroughALinkIsFoundByPolling(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "real.yaml")
	if err := os.WriteFile(elsewhere, []byte(podYAML("a")), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	s := begin(t, dir, 20*time.Millisecond)
	s.until(has("a"))
	if err := os.WriteFile(elsewhere, []byte(podYAML("longer")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.until(has("longer"))
}

func TestADirectoryThatComesAndGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "workloads")
	s := begin(t, dir, 20*time.Millisecond)
	if err := s.nextError(); !strings.Contains(err.Error(), dir) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	for _, name := range []string{"a", "b"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.write(name+".yaml", podYAML(name))
		s.until(has(name))
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		s.eventually(func() bool { return strings.Contains(s.source.Stats().LastError, "no such file") })
		if st := s.source.Stats(); st.Objects != 1 {
			t.Errorf("the last good state is gone: %+v", st)
		}
	}
}

func TestANewDirectoryUnderTheSameNameIsWatched(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "workloads")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := begin(t, dir, 50*time.Millisecond)
	s.write("a.yaml", podYAML("a"))
	s.until(has("a"))
	if err := errors.Join(os.Mkdir(filepath.Join(parent, "next"), 0o700), os.Rename(dir, filepath.Join(parent, "old")),
		os.Rename(filepath.Join(parent, "next"), dir)); err != nil {
		t.Fatal(err)
	}
	s.write("b.yaml", podYAML("b"))
	s.until(has("b"))
}

func TestABusyDirectoryIsReadAllTheSame(t *testing.T) {
	s := begin(t, t.TempDir(), time.Hour)
	s.next()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(filepath.Join(s.dir, "noise"), []byte{byte(i)}, 0o600)
			}
		}
	}()
	s.write("a.yaml", podYAML("a"))
	s.until(has("a"))
	close(stop)
	<-done
}

func TestWhatIsNotAFileOfReasonableSizeIsRefused(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int64{"big.yaml": maxFileBytes + 1, "ok.yaml": 0} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := begin(t, dir, time.Hour)
	err := s.nextError()
	if strings.Count(err.Error(), "\n") < 2 { // somebody may be about to write the empty one
		err = s.nextError()
	}
	want := []string{
		fmt.Sprintf("big.yaml: %d bytes, more than %d", maxFileBytes+1, maxFileBytes),
		"fifo.yaml: not a regular file",
		"ok.yaml: empty; delete the file to delete its objects",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestADirectoryThatIsTooMuchIsRefusedUnread(t *testing.T) {
	dir := t.TempDir()
	for i := range maxTotalBytes/maxFileBytes + 1 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i, ".yaml")))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(maxFileBytes), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := begin(t, dir, time.Hour).nextError(); !strings.Contains(err.Error(), "bytes in all files, more than") {
		t.Errorf("error %v", err)
	}
}

// Istio's ztunnel skips a policy that a workload names and that has not come yet.
func TestPoliciesAndWorkloadsComeInOneSnapshot(t *testing.T) {
	s := begin(t, t.TempDir(), time.Hour)
	s.write("shop.yaml", `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
`+podYAML("a"))
	snap := s.until(has("a"))
	if w := snap.Mesh.Workloads[0]; !w.Meshed || w.ID.String() != "spiffe://cluster.local/ns/shop/sa/default" {
		t.Errorf("workload %+v", w)
	}
	if !snap.Mesh.Namespaces["shop"].Meshed {
		t.Error("the namespace is not in the mesh")
	}
	set := policy.NewSet()
	set.Replace(snap.Policies)
	if got := set.Mode(snap.Mesh.Workloads[0].Workload(), 80); got != policy.Strict {
		t.Errorf("mode %v", got)
	}
}

func TestIstiosLabelsCanBeIgnored(t *testing.T) {
	dir := t.TempDir()
	text := podYAML("a") + "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}"
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ignore := range []bool{false, true} {
		s := New(dir, Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), IgnoreIstioLabels: ignore})
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Run(ctx, func(snap source.Snapshot) {
			if got := snap.Mesh.Workloads[0].Meshed; got == ignore {
				t.Errorf("ignoring Istio's labels %v: meshed %v", ignore, got)
			}
			cancel()
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestWithoutAReceiverErrorsAreLoggedAndSoIsTheirEnd(t *testing.T) {
	dir := t.TempDir()
	var lines strings.Builder
	s := New(dir, Options{
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"),
		Log:         slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	look := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.look(func(source.Snapshot) {})
	}
	look("a: [")
	look("{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}")
	for _, want := range []string{
		`level=ERROR msg="workloads and policies are not understood; none were read before, so none are in force and pods wait"`, "a.yaml: document 1: yaml",
		`level=DEBUG msg="ignored: not a kind that the mesh needs" object="a.yaml: document 1: Deployment web (apps/v1)"`,
		`level=INFO msg="workloads and policies can be read again"`,
	} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("no %s in\n%s", want, lines.String())
		}
	}
}

// BenchmarkLook is one changed file among 1,000, as when a pod starts.
func BenchmarkLook(b *testing.B) {
	dir := b.TempDir()
	for i := range 1000 {
		name := fmt.Sprint("pod-", i)
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(podYAML(name)), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	s := New(dir, Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	snapshots := 0
	for b.Loop() {
		name := fmt.Sprint("new-", snapshots)
		if err := os.WriteFile(filepath.Join(dir, "changing.yaml"), []byte(podYAML(name)), 0o600); err != nil {
			b.Fatal(err)
		}
		s.look(func(source.Snapshot) { snapshots++ })
	}
}

func TestTheLogSaysWhetherAnythingIsInForce(t *testing.T) {
	dir := t.TempDir()
	var text bytes.Buffer // written before errors, read after
	failed, read := make(chan error, 1), make(chan source.Snapshot, 1)
	s := New(dir, Options{
		TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Settle: 10 * time.Millisecond, Poll: 10 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&text, nil)), OnError: func(err error) { failed <- err },
	})
	broken := filepath.Join(dir, "broken.yaml")
	write := func(yaml string) {
		t.Helper()
		put(t, broken, yaml)
	}
	write("kind: [\n")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx, func(snap source.Snapshot) { read <- snap }) }()
	<-failed
	write("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
	<-read
	write("kind: {\n")
	<-failed
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	before, after, _ := strings.Cut(text.String(), "can be read again")
	if !strings.Contains(before, "none are in force and pods wait") || strings.Contains(before, "last good") {
		t.Errorf("before anything was read: %s", before)
	}
	if !strings.Contains(after, "the last good ones stay in force") {
		t.Errorf("after something was read: %s", after)
	}
}
