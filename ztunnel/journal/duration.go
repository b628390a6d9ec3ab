// SPDX-License-Identifier: Apache-2.0

package journal

import "log/slog"

// A duration is logged as text, as "1.5s": a number, which is what JSON has for
// it, would not say its unit. HandlerOptions.ReplaceAttr could do the same, and
// costs each record a third more.

// spellDurations returns r with its durations as text; r itself if it has none.
func spellDurations(r slog.Record) slog.Record {
	found := false
	r.Attrs(func(a slog.Attr) bool {
		found = hasDuration(a.Value)
		return !found
	})
	if !found {
		return r
	}
	spelled := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		spelled.AddAttrs(spell(a))
		return true
	})
	return spelled
}

func hasDuration(v slog.Value) bool {
	switch v.Kind() {
	case slog.KindDuration:
		return true
	case slog.KindGroup:
		for _, a := range v.Group() {
			if hasDuration(a.Value) {
				return true
			}
		}
	}
	return false
}

func spell(a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindDuration:
		a.Value = slog.StringValue(a.Value.Duration().String())
	case slog.KindGroup:
		a.Value = slog.GroupValue(spellAll(a.Value.Group())...)
	}
	return a
}

func spellAll(attrs []slog.Attr) []slog.Attr {
	spelled := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		spelled[i] = spell(a)
	}
	return spelled
}
