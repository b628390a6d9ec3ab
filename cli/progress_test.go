// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/progress"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

// rekeyed is a place whose re-key is in one state for so many looks each.
type rekeyed struct {
	custody.Keep
	states []rekey.State
	looks  int
}

func (r *rekeyed) Read(context.Context) (ca.Files, error) {
	state := rekey.Stable
	if i := r.looks / 15; i < len(r.states) {
		state = r.states[i]
	}
	r.looks++
	return rekey.Plan{State: state}.Files(), nil
}

func (r *rekeyed) String() string { return "the CA" }

func TestWhoeverWaitsForAReKeyIsToldItsState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, told bytes.Buffer
		c := &command{Process: Process{Stdout: &out, Stderr: &told}}
		cmd := &cobra.Command{}
		cmd.SetContext(t.Context())
		c.from.define(cmd.Flags())
		cmd.Flags().Set("ca-dir", "unused")
		if err := c.followRekey(cmd, &rekeyed{states: rekey.States[1:3]}, "table"); err != nil {
			t.Fatal(err)
		}
		first, second := string(rekey.States[1]), string(rekey.States[2])
		want := "culvert: re-keys the root: state " + first + "; for 2s\nculvert: re-keys the root: state " + first + "; for 12s\n" +
			"culvert: re-keys the root: state " + second + "; for 22s\n"
		if told.String() != want {
			t.Errorf("stderr has\n%swant\n%s", &told, want)
		}
		if n := strings.Count(out.String(), "the CA: "); n != 3 {
			t.Errorf("%d states in\n%s", n, &out)
		}
	})
}

// On a terminal the line that changes goes before another is written.
func TestWatchedCertificatesStandInLinesOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := &command{Process: Process{Stdout: &out, Stderr: &out, Now: func() time.Time { return clitest.Now }}}
		w := watch{command: c, work: progress.Begin(&out, true, "watches", 0, 0)}
		node := fleet.Node{Target: fleet.Target{Name: "node1"}, Problem: "away"}
		for _, nodes := range [][]fleet.Node{nil, {node}} {
			if err := w.look(nodes); err != nil {
				t.Error(err)
			}
			time.Sleep(2100 * time.Millisecond)
		}
		w.work.End()
		const clear = "\r\x1b[K"
		said := stamp(clitest.Now) + " silent   node1  error=\"away\"\n"
		if text := out.String(); !strings.Contains(text, clear+"watches: 0 nodes, 0 of them silent, 0 certificates; for 2s"+clear+said+clear+"watches: 1 nodes, 1 of them silent, 0 certificates; for") {
			t.Errorf("%q", text)
		}
	})
}

// awaited is an output that says when it has a text.
type awaited struct {
	text string
	has  chan struct{}
	got  bytes.Buffer
}

func (a *awaited) Write(p []byte) (int, error) {
	before := strings.Contains(a.got.String(), a.text)
	a.got.Write(p)
	if !before && strings.Contains(a.got.String(), a.text) {
		close(a.has)
	}
	return len(p), nil
}

func TestCertsWatchSaysHowLongItWatches(t *testing.T) {
	t.Parallel()
	told := &awaited{text: "culvert: watches certificates: 1 nodes, 0 of them silent", has: make(chan struct{})}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	node := clitest.Serve(t, clitest.Ztunnel{Node: "node1"})
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, Process{Args: []string{"culvert", "certs", "watch", "--ztunnel", node}, Stdout: io.Discard, Stderr: told,
			Getenv: func(string) string { return "" }, Now: func() time.Time { return clitest.Now }})
	}()
	select {
	case <-told.has:
	case <-time.After(30 * time.Second):
		t.Error("nothing is told")
	}
	interrupt()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d: %s", code, &told.got)
	}
}
