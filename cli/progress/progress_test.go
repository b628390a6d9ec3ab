// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func TestWaitingIsTold(t *testing.T) {
	for _, tc := range []struct {
		name     string
		terminal bool
		lasts    time.Duration
		want     string
	}{
		{"what is done soon", false, 1999 * time.Millisecond, ""},
		{"plain lines", false, 13 * time.Second, "culvert: asks nodes: 1 of 3, node2; for 2s, 13s at most\nculvert: asks nodes: 1 of 3, node2; for 12s, 13s at most\n"},
		{"a terminal", true, 2700 * time.Millisecond, "\r\x1b[Kasks nodes: 1 of 3, node2; for 2s, 13s at most\r\x1b[Kasks nodes: 1 of 3, node2; for 3s, 13s at most\r\x1b[K"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			w := Begin(&out, tc.terminal, "asks nodes", 0, 13*time.Second)
			w.Parts(3)
			w.Done(1)
			w.Part("node2")
			time.Sleep(tc.lasts)
			w.End()
			if got := out.String(); got != tc.want {
				t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
			}
		})
	}
}

// What is written meanwhile stands in lines of its own.
func TestTheLineGoesWhileOthersWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := Begin(&out, true, "waits", 0, 0)
		say := func(text string) {
			if err := w.Around(func() error { _, err := out.WriteString(text); return err }); err != nil {
				t.Error(err)
			}
		}
		say("at once\n")
		time.Sleep(quiet + time.Millisecond)
		say("later\n")
		say("still\n")
		time.Sleep(redrawn)
		w.End()
		w.End()
		want := "at once\n\r\x1b[Kwaits; for 2s\r\x1b[Klater\nstill\n\r\x1b[Kwaits; for 3s\r\x1b[K"
		if got := out.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestOfWhatIsNotKnownNothingIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		w := Begin(&out, false, "waits", 0, 0)
		time.Sleep(quiet + time.Millisecond)
		w.End()
		if got := out.String(); got != "culvert: waits; for 2s\n" {
			t.Errorf("%q", got)
		}
	})
	var nobody *Work
	nobody.Parts(1)
	nobody.Part("x")
	nobody.Done(1)
	if err := nobody.Around(func() error { return nil }); err != nil {
		t.Error(err)
	}
	nobody.End()
}
