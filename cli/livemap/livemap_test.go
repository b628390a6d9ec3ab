// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
)

// A node that two addresses lead to is one that answers, and that is logged once.
func TestANodeWithTwoAddressesIsLoggedOnce(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var asked atomic.Int32
	address := clitest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > 6 { // three looks
			stop()
		}
		fmt.Fprint(w, `{"config": {"NodeName": "node1"}}`)
	}))
	h, log := &History{}, &strings.Builder{}
	if err := h.Watch(ctx, fleet.Addresses{Ztunnel: []string{address, address}}, time.Millisecond, slog.New(slog.NewTextHandler(log, nil))); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("node1 is found by %s, which counts, and once more by %[1]s", address); strings.Count(log.String(), "level=WARN") != 1 || !strings.Contains(log.String(), want) {
		t.Errorf("%s", log)
	}
	if !h.nodes["node1"] || len(h.nodes) != 1 {
		t.Errorf("nodes %v", h.nodes)
	}
}
