// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// BenchmarkCheck asks nodes with ten pods each, of which every node knows all. The servers
// of the nodes are in the same process, and their answers are made before.
func BenchmarkCheck(b *testing.B) {
	for _, count := range []int{2, 200} {
		b.Run(fmt.Sprintf("nodes=%d", count), func(b *testing.B) {
			base, _ := clitest.Pair()
			workloads := base.Workloads.([]any)
			for i := range 10 * count {
				pod := maps.Clone(workloads[0].(map[string]any))
				pod["UID"], pod["Name"], pod["Addrs"] = fmt.Sprint("uid-", i), fmt.Sprint("pod-", i), []string{fmt.Sprintf("10.%d.%d.9", i/250, i%250)}
				workloads = append(workloads, pod)
			}
			base.Workloads = workloads
			var addresses []string
			for i := range count {
				node := base
				node.Node = fmt.Sprint("node", i)
				text, err := json.Marshal(node.Dump())
				if err != nil {
					b.Fatal(err)
				}
				addresses = append(addresses, clitest.Serve(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
					_, _ = w.Write(text) // a client that went is no matter
				})))
			}
			args := []string{"culvert", "check", "-o", "json", "--ztunnel", strings.Join(addresses, ",")}
			for b.Loop() {
				code := Run(b.Context(), Process{Args: slices.Clone(args), Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }, Now: func() time.Time { return clitest.Now }})
				if code > exitFail {
					b.Fatalf("exit code %d", code)
				}
			}
		})
	}
}
