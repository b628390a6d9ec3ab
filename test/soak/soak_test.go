// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"
)

func TestOneFailedConnectionIsAVerdict(t *testing.T) {
	for says, change := range map[string]func(*world){
		"":                  func(*world) {},
		"failed: map[ECONN": func(w *world) { w.ways[1].failed["ECONNRESET"] = 1 },
		"too busy":          func(w *world) { w.ways[0].ok = 10 },
		"had 1 certific":    func(w *world) { w.seen["node1 web"].serials = map[string]bool{"1": true} },
		"was \"Unavail":     func(w *world) { w.seen["node1 web"].bad["Unavailable: expired"] = 1 },
		"of another issuer": func(w *world) { w.signers = map[string]bool{"1": true} },
	} {
		w := &world{rate: 10, ttl: 25 * time.Second, took: time.Minute, replaced: replaced{issuers: 1}, signers: map[string]bool{"1": true, "2": true}, seen: map[string]*identity{
			"node1 web": {serials: map[string]bool{"1": true, "2": true, "3": true}, bad: map[string]int{}},
		}}
		for i := range w.ways {
			w.ways[i] = way{ok: 300, failed: map[string]int{}}
		}
		change(w)
		err := w.judge()
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}
