// SPDX-License-Identifier: Apache-2.0

package cli

import (
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
	base.Workloads = workloads
	for i := range count {
		node := base
		node.Node = fmt.Sprint("node", i)
		text, err := json.Marshal(node.Dump())
		if err != nil {
			tb.Fatal(err)
		}
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
	count := 200
	if testing.Short() { // as under the race detector
		count = 20
	}
	addresses := meshOf(t, count)
	for want, command := range map[string][]string{
		`"id": "nodes-answer"`:                  {"check", "-o", "json"},
		fmt.Sprintf("node%d ", count-1):         {"status"},
		fmt.Sprintf("%d/%d\n", count, count):    {"workloads"},
		"RECEIVED":                              {"edges"},
		"spiffe://cluster.local/ns/shop/sa/web": {"certs", "list"},
	} {
		began, before := time.Now(), processorTime(t)
		code, out := asked(t.Context(), addresses, command...)
		clock, processor := time.Since(began), processorTime(t)-before
		if code > exitFail || !strings.Contains(out, want) {
			t.Errorf("%v: exit code %d, no %q in %.2000s", command, code, want, out)
		}
		t.Logf("%v of %d nodes: %v, of the processors %v", command, count, clock.Round(time.Millisecond), processor.Round(time.Millisecond))
		if min(clock, processor) > most {
			t.Errorf("%v of %d nodes took %v", command, count, min(clock, processor))
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
