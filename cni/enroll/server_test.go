// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// serve runs h on a socket in a directory of the test's and returns its path.
func serve(t *testing.T, h Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state", "enroll.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- Serve(ctx, ln, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestEveryVerbReachesTheHandler(t *testing.T) {
	h := &fake{asked: make(chan any, 1), reply: Reply{Verdict: Enrolled}}
	client := Client{Socket: serve(t, h)}
	ctx := t.Context()

	reply, err := client.Add(ctx, pod())
	if err != nil || reply != h.reply {
		t.Errorf("add: %+v, %v", reply, err)
	}
	compare(t, "add", pod(), <-h.asked)
	if err := client.Check(ctx, pod()); err != nil {
		t.Errorf("check: %v", err)
	}
	compare(t, "check", pod(), <-h.asked)
	if err := client.Del(ctx, pod()); err != nil {
		t.Errorf("del: %v", err)
	}
	compare(t, "del", pod(), <-h.asked)
	if err := client.GC(ctx, "kindnet", nil); err != nil {
		t.Errorf("gc: %v", err)
	}
	compare(t, "gc", gcRequest{"kindnet", []Attachment{}}, <-h.asked)
}

// Whoever is not named is taken off the network: a list that is cut short, or never
// arrives, is no use.
func TestGCNamesAllSandboxesOfALargeNode(t *testing.T) {
	h := &fake{asked: make(chan any, 1)}
	valid := make([]Attachment, 8192)
	for i := range valid {
		valid[i] = Attachment{ContainerID: fmt.Sprintf("%0256d", i), IfName: "eth0"}
	}
	if err := (Client{Socket: serve(t, h)}).GC(t.Context(), "kindnet", valid); err != nil {
		t.Fatal(err)
	}
	compare(t, "gc", gcRequest{"kindnet", valid}, <-h.asked)
}

func compare(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func TestHandlerErrorsAreAnswersNotSilence(t *testing.T) {
	h := &fake{asked: make(chan any, 2), err: errFake}
	client := Client{Socket: serve(t, h)}
	_, err := client.Add(t.Context(), pod())
	if err == nil || err.Error() != errFake.Error() || errors.Is(err, ErrUnanswered) {
		t.Errorf("add: %v", err)
	}
	h.err = nil // and a Reply without a verdict
	if _, err := client.Add(t.Context(), pod()); err == nil || !strings.Contains(err.Error(), "verdict") {
		t.Errorf("no verdict: %v", err)
	}
}

func TestNoZtunnelIsUnanswered(t *testing.T) {
	dir := t.TempDir()
	_, err := Client{Socket: filepath.Join(dir, "enroll.sock")}.Add(t.Context(), pod())
	if !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no socket: %v", err)
	}
	path := filepath.Join(dir, "state", "enroll.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	_, err = Client{Socket: path}.Add(t.Context(), pod())
	if !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dead socket: %v", err)
	}
}

func TestAZtunnelThatHangsIsUnansweredWithinTheBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("takes Budget, 3 s")
	}
	path := serve(t, &hanging{})
	_, err := Client{Socket: path}.Add(t.Context(), pod())
	if !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), "within 3s") {
		t.Errorf("hung: %v", err)
	}
}

type hanging struct{ fake }

func (*hanging) Add(ctx context.Context, _ Request) (Reply, error) {
	<-ctx.Done()
	return Reply{}, ctx.Err()
}

func TestServerRefusesWhatIsNotOneRequest(t *testing.T) {
	h := &fake{asked: make(chan any, 1)}
	path := serve(t, h)
	big := `{"podName":"` + strings.Repeat("a", maxBody) + `"}`
	for _, tc := range []struct{ body, want string }{
		{`{"podName":7}`, "podName: want string"},
		{`{"extra":1}`, `unknown field "extra"`},
		{`{}`, "containerID: want a container id"},
		{big, "too large"},
	} {
		status, body := post(t, path, pathAdd, tc.body)
		if status != http.StatusBadRequest || !strings.Contains(body, tc.want) {
			t.Errorf("%.40s: %d %s", tc.body, status, body)
		}
	}
	if status, _ := post(t, path, "/v2/add", `{}`); status != http.StatusNotFound {
		t.Errorf("a verb of another version: %d", status)
	}
	if len(h.asked) != 0 {
		t.Error("a refused request reached the handler")
	}
}

func post(t *testing.T, socket, path, body string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", socket)
		},
	}}
	resp, err := client.Post("http://ztunnel"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.ReplaceAll(buf.String(), `\"`, `"`)
}

func TestListenTakesOverFromTheOneBefore(t *testing.T) {
	path := serve(t, &fake{asked: make(chan any, 1), reply: Reply{Verdict: Ignore}})
	h := &fake{asked: make(chan any, 1), reply: Reply{Verdict: Enrolled}}
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- Serve(ctx, ln, h) }()
	reply, err := Client{Socket: path}.Add(t.Context(), pod())
	if err != nil || reply.Verdict != Enrolled {
		t.Errorf("add after the take-over: %+v, %v", reply, err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("socket has mode %#o: %v", st.Mode&0o777, err)
	}
}
