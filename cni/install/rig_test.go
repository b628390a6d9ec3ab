// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(asProcess); what != "" {
		os.Exit(process(what))
	}
	os.Exit(env.CheckLeaks(m))
}

var versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

const entryText = `{"type":"culvert-cni","ownPod":"culvert-system/ztunnel-"}`

// node is what an installer sees of a node.
type node struct {
	t              *testing.T
	conf, bin      string
	cache, program string
	log            *logged
	settle, poll   time.Duration
	entry          string
}

func newNode(t *testing.T) *node {
	t.Helper()
	root := t.TempDir()
	n := &node{t: t, conf: filepath.Join(root, "net.d"), bin: filepath.Join(root, "bin"), cache: filepath.Join(root, "cache"),
		program: filepath.Join(root, "culvert-cni"), log: &logged{}, settle: 5 * time.Millisecond, poll: time.Minute, entry: entryText}
	for _, dir := range []string{n.conf, n.bin, n.cache} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, n.program, "version 1")
	return n
}

func (n *node) config() Config {
	return Config{ConfDir: n.conf, BinDir: n.bin, Program: n.program, Entry: json.RawMessage(n.entry), Versions: versions,
		Settle: n.settle, Poll: n.poll, Log: slog.New(slog.NewTextHandler(n.log, nil))}
}

func (n *node) installer() *Installer {
	n.t.Helper()
	in, err := New(n.config())
	if err != nil {
		n.t.Fatal(err)
	}
	return in
}

// run keeps an installer running until stop, or the end of the test.
func (n *node) run() (in *Installer, stop func()) {
	n.t.Helper()
	in = n.installer()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	})
	n.t.Cleanup(stop)
	return in, stop
}

// uninstall takes the plugin away without waiting for a runtime.
func (n *node) uninstall() error {
	return Uninstall(context.Background(), Removal{Config: n.config(), CacheDir: n.cache, Grace: time.Nanosecond})
}

// writes a config of others as most of them do: beside it, and renamed.
func (n *node) writes(file, text string) {
	n.t.Helper()
	tmp := filepath.Join(n.conf, ".theirs-"+file+".tmp")
	put(n.t, tmp, text)
	if err := os.Rename(tmp, filepath.Join(n.conf, file)); err != nil {
		n.t.Fatal(err)
	}
}

// chain is the list of plugins that a container runtime would run.
func (n *node) chain() []string {
	chain, _ := chainOf(n.conf)
	return chain
}

// chainOf reads what containerd's CRI plugin reads: the first config by name.
func chainOf(dir string) ([]string, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("%d configs: %v", len(files), err)
	}
	slices.Sort(files)
	if filepath.Ext(files[0]) != ".conflist" {
		data, err := os.ReadFile(files[0])
		if err != nil {
			return nil, err
		}
		var single struct{ Type string }
		err = json.Unmarshal(data, &single)
		return []string{single.Type}, err
	}
	list, err := libcni.NetworkConfFromFile(files[0])
	if err != nil {
		return nil, err
	}
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	return types, nil
}

func (n *node) wantChain(what string, want ...string) {
	n.t.Helper()
	await(n.t, what, func() string {
		if got, err := chainOf(n.conf); !slices.Equal(got, want) {
			return fmt.Sprintf("the chain is %q (%v), want %q\n%s", got, err, want, n.log)
		}
		return ""
	})
}

func (n *node) wantLog(what string) {
	n.t.Helper()
	await(n.t, "the log", func() string {
		if !strings.Contains(n.log.String(), what) {
			return fmt.Sprintf("no %q in the log:\n%s", what, n.log)
		}
		return ""
	})
}

// serve returns how to get a page of the installer's, with its status.
func serve(t *testing.T, in *Installer) (get func(path string) (int, string)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(path string) (int, string) {
		reply, err := client.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			return 0, err.Error()
		}
		defer reply.Body.Close()
		body, _ := io.ReadAll(reply.Body)
		return reply.StatusCode, string(body)
	}
}

// await waits until wrong has nothing to say.
func await(t *testing.T, what string, wrong func() string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for tick := time.Tick(time.Millisecond); ; <-tick {
		problem := wrong()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, problem)
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// contents are the files of a directory by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if os.IsNotExist(err) {
			continue // a temporary file, or a link to nowhere
		}
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

func names(all map[string]string) []string { return slices.Sorted(maps.Keys(all)) }

// logged is a log to read while it is written.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
