// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// The node counts nothing: what the map knows, it has heard.
func TestTheMapHearsWhatNodesRefuse(t *testing.T) {
	node := clitest.Serve(t, clitest.Ztunnel{Node: "node1", Events: []any{map[string]any{
		"event": "refused", "direction": "outbound", "result": "denied", "source": map[string]any{"namespace": "shop", "workload": "web"},
	}}})
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	out, printed := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, Process{Args: []string{"culvert", "map", "--listen", "127.0.0.1:0", "--every", "1m", "--ztunnel", node}, Stdout: printed, Stderr: io.Discard, Getenv: func(string) string { return "" }})
		printed.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(strings.TrimSpace(strings.TrimPrefix(line, "the map is at ")))
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address.Host+"/api/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+address.Query().Get("token"))
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for heard := false; !heard; {
		if !lines.Scan() {
			t.Fatalf("it is not told: %v", lines.Err())
		}
		heard = strings.Contains(lines.Text(), `"from":"shop/web"`) && strings.Contains(lines.Text(), `"fresh":1`)
	}
	interrupt()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
}
