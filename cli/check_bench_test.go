// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// meshOf is the addresses of as many nodes, with ten pods each, of which every node knows
// all. The servers of the nodes are in the same process, and their answers are made before.
func meshOf(tb testing.TB, count int) (addresses []string) {
	base, _ := clitest.Pair()
	workloads := base.Workloads.([]any)
	for i := range 10 * count {
		pod := maps.Clone(workloads[0].(map[string]any))
		pod["UID"], pod["Name"], pod["Addrs"] = fmt.Sprint("uid-", i), fmt.Sprint("pod-", i), []string{fmt.Sprintf("10.%d.%d.9", i/250, i%250)}
		workloads = append(workloads, pod)
	}
	const name = "the name of the node"
	base.Workloads, base.Node = workloads, name
	dump, err := json.Marshal(base.Dump())
	if err != nil {
		tb.Fatal(err)
	}
	for i := range count {
		text := bytes.ReplaceAll(dump, []byte(name), fmt.Append(nil, "node", i))
		addresses = append(addresses, clitest.Serve(tb, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
			_, _ = w.Write(text) // a client that went is no matter
		})))
	}
	return addresses
}

// asked runs a command that reads the nodes, and returns its exit code and output.
func asked(ctx context.Context, addresses []string, command ...string) (code int, out string) {
	var text strings.Builder
	args := slices.Concat([]string{"culvert"}, command, []string{"--ztunnel", strings.Join(addresses, ",")})
	code = Run(ctx, Process{Args: args, Stdout: &text, Stderr: &text, Getenv: func(string) string { return "" }, Now: func() time.Time { return clitest.Now }})
	return code, text.String()
}

func BenchmarkCheck(b *testing.B) {
	for _, count := range []int{2, 200} {
		b.Run(fmt.Sprintf("nodes=%d", count), func(b *testing.B) {
			addresses := meshOf(b, count)
			for b.Loop() {
				if code, out := asked(b.Context(), addresses, "check", "-o", "json"); code > exitFail {
					b.Fatalf("exit code %d: %s", code, out)
				}
			}
		})
	}
}

// Whoever looks after 200 nodes has an answer within ten seconds. On a machine that does
// other things, too, the processor's time counts.
func TestTwoHundredNodesAnswerWithinTenSeconds(t *testing.T) {
	const most = 10 * time.Second
	few, many := 20, 200
	if testing.Short() { // as under the race detector
		many = few
	}
	addresses := meshOf(t, many)
	for _, tc := range []struct {
		want    string
		nodes   int // all that print what nodes say take as long for it
		command []string
	}{
		{`"id": "nodes-answer"`, many, []string{"check", "-o", "json"}},
		{fmt.Sprintf("node%d ", many-1), many, []string{"status"}},
		{fmt.Sprintf("%d/%d\n", few, few), few, []string{"workloads"}},
		{"RECEIVED", few, []string{"edges"}},
		{"spiffe://cluster.local/ns/shop/sa/web", few, []string{"certs", "list"}},
	} {
		began, before := time.Now(), processorTime(t)
		code, out := asked(t.Context(), addresses[:tc.nodes], tc.command...)
		clock, processor := time.Since(began), processorTime(t)-before
		if code > exitFail || !strings.Contains(out, tc.want) {
			t.Errorf("%v: exit code %d, no %q in %.2000s", tc.command, code, tc.want, out)
		}
		t.Logf("%v of %d nodes: %v, of the processors %v", tc.command, tc.nodes, clock.Round(time.Millisecond), processor.Round(time.Millisecond))
		if min(clock, processor) > most {
			t.Errorf("%v of %d nodes took %v", tc.command, tc.nodes, min(clock, processor))
		}
	}
}

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
