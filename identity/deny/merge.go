// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Merge has the set be what one and the other deny together, until ctx ends. It is not
// known as long as one of both is not. Both must number by the same clock or API server: the
// number that is greater counts.
func (s *Set) Merge(ctx context.Context, one, other *Set, log *slog.Logger) error {
	poll := time.NewTicker(lookEvery) // trouble is no change
	defer poll.Stop()
	for {
		_, _, first := one.Entries()
		_, _, second := other.Entries()
		s.merge(one, other, log)
		select {
		case <-ctx.Done():
			return nil
		case <-first:
		case <-second:
		case <-poll.C:
		}
	}
}

func (s *Set) merge(one, other *Set, log *slog.Logger) {
	var entries []Entry
	var version uint64
	for _, part := range []*Set{one, other} {
		if err := part.Unknown(); err != nil {
			s.fail(err)
			return
		}
		generation, more, _ := part.Entries()
		entries, version = append(entries, more...), max(version, generation)
	}
	if len(entries) > MaxEntries {
		_ = s.Keep(fmt.Errorf("%d entries of two sources, the limit is %d", len(entries), MaxEntries), log) // it is said
		return
	}
	s.Replace(version, slices.Clip(entries))
	for _, part := range []*Set{one, other} {
		if why := part.Trouble(); why != "" {
			s.fail(fmt.Errorf("%s", why))
		}
	}
}
