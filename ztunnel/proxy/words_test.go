// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// ARCHITECTURE.md promises operators one table of how connections end.
func TestTheFailureTableOfTheDocsIsTheOneInForce(t *testing.T) {
	text, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| word | `response_flags` | when | what the app sees |\n|---|---|---|---|\n")
	if !found {
		t.Fatal("ARCHITECTURE.md has no failure table")
	}
	documented := map[Word]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 4 {
			break
		}
		word, flags := strings.Trim(cells[0], "|` "), strings.Trim(cells[1], "` ")
		documented[Word(word)] = flags
	}
	if diff := cmp.Diff(Words, documented); diff != "" {
		t.Errorf("in force (-), in ARCHITECTURE.md (+):\n%s", diff)
	}
}

func TestAClientThatAServiceDoesNotLetInIsDenied(t *testing.T) {
	if word := wordOf(fmt.Errorf("client 10.0.0.1 is %w", workload.ErrSource)); word != Denied {
		t.Errorf("got %s", word)
	}
}

// It is named for each stream that is refused, of which a peer may open thousands.
func TestNamingAFailureAllocatesNothing(t *testing.T) {
	for _, err := range []error{
		fail(Dial, syscall.ECONNREFUSED), fmt.Errorf("not tried: %w", fail(Dial, syscall.ECONNREFUSED)),
		hbone.ErrReset, &hbone.StatusError{Code: 401}, &policy.Denied{}, workload.ErrUnknownPeer, workload.ErrSource, errors.New("of nobody"),
	} {
		if n := testing.AllocsPerRun(100, func() { wordOf(err) }); n > 0 {
			t.Errorf("%v: %v allocations", err, n)
		}
	}
}
