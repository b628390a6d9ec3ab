// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"
	"unicode/utf8"
)

// Nothing is left out on a narrow terminal: what has no room in the row is named below it.
func TestATableIsReadableOnANarrowTerminal(t *testing.T) {
	head := "NODE|IDENTITY|STATE|SERIAL|NOT AFTER|LEFT|LAST ERROR"
	rows := func() [][]string {
		return [][]string{
			{"node1", "spiffe://cluster.local/ns/shop/sa/db", "overdue", "f6fa1b57de5263d462372c6bb47dc271", "2026-11-29T12:10:00Z", "10m", "rpc error: Unavailable"},
			{"node2", "spiffe://cluster.local/ns/shop/sa/web", "missing", "", "", "", ""},
		}
	}
	for width, want := range map[int]string{
		0: `NODE    IDENTITY                                STATE     SERIAL                             NOT AFTER              LEFT   LAST ERROR
node1   spiffe://cluster.local/ns/shop/sa/db    overdue   f6fa1b57de5263d462372c6bb47dc271   2026-11-29T12:10:00Z   10m    rpc error: Unavailable
node2   spiffe://cluster.local/ns/shop/sa/web   missing   -                                  -                      -      -
`,
		80: `NODE    IDENTITY                                STATE
node1   spiffe://cluster.local/ns/shop/sa/db    overdue
    SERIAL f6fa1b57de5263d462372c6bb47dc271   NOT AFTER 2026-11-29T12:10:00Z
    LEFT 10m   LAST ERROR rpc error: Unavailable
node2   spiffe://cluster.local/ns/shop/sa/web   missing
`,
		20: `NODE
node1
    IDENTITY spiffe://cluster.local/ns/shop/sa/db
    STATE overdue
    SERIAL f6fa1b57de5263d462372c6bb47dc271
    NOT AFTER 2026-11-29T12:10:00Z
    LEFT 10m
    LAST ERROR rpc error: Unavailable
node2
    IDENTITY spiffe://cluster.local/ns/shop/sa/web
    STATE missing
`,
	} {
		screen := sheet{width: width}
		if err := table(&screen, head, rows()); err != nil {
			t.Fatal(err)
		}
		if got := screen.String(); got != want {
			t.Errorf("%d columns:\n%swant:\n%s", width, got, want)
		}
	}
	// What just fits stays in one line.
	screen := sheet{width: utf8.RuneCountInString("NAME   AGE")}
	if err := table(&screen, "NAME|AGE", [][]string{{"a", "10s"}}); err != nil || screen.String() != "NAME   AGE\na      10s\n" {
		t.Errorf("%v\n%s", err, screen.String())
	}
}
