// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
