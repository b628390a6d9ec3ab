// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/journal"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
)

// What the node's journal does with a record below its own level is what the scope says.
func TestTheJournalWritesWhatAScopeEnables(t *testing.T) {
	var text bytes.Buffer
	level := new(slog.LevelVar)
	j := journal.New(&text, journal.JSON(level), journal.Options{})
	cfg := Config{Log: slog.New(j.Handler()), Level: level}.withDefaults()
	access, _, err := cfg.access(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.levels.Set("error,source=debug,access=info"); err != nil {
		t.Fatal(err)
	}
	cfg.levels.Logger(loglevel.Source).Debug("snapshot")
	access.Info("connection complete")
	access.Debug("connection opened")
	cfg.Log.Warn("started")
	cfg.levels.Reset()
	cfg.Log.Info("on")
	go j.Run()
	if !j.Close(time.Minute) {
		t.Fatal("the journal does not end")
	}
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	for i, want := range []string{`"message":"snapshot","scope":"source"}`, `"message":"connection complete"}`, `"message":"on","scope":"ztunnel"}`} {
		if len(lines) != 3 || !strings.HasSuffix(lines[i], want) {
			t.Fatalf("%q, want %s", lines, want)
		}
	}
}

func BenchmarkEnabled(b *testing.B) {
	level := new(slog.LevelVar)
	plain := slog.New(journal.New(io.Discard, journal.JSON(level), journal.Options{}).Handler())
	for name, log := range map[string]*slog.Logger{"scoped": loglevel.New(plain, level).Logger(loglevel.Access), "plain": plain} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				log.Enabled(b.Context(), slog.LevelDebug)
			}
		})
	}
}
