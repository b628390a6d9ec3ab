// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// maxNoted is how many refusals of one source a moment keeps that are not as at the moment
// before: whoever is refused everywhere must not use up the memory of others. Those that have
// no room are as they were, and have their turn at a later moment.
const maxNoted = 25

// recall is what was refused until now, for a moment that is kept: the last one first. It
// shares with the moment before what has not changed, and returns how many bytes the rest
// keeps, about.
func (r *refusals) recall(before []*Refusal) (now []*Refusal, bytes int) {
	known := make(map[string]*Refusal, len(before))
	for _, one := range before {
		known[one.ID] = one
	}
	noted := map[string]int{}
	for _, one := range r.inTurn(known) {
		one.Fresh, one.aged, one.asks, one.counted = 0, 0, [2]string{}, time.Time{} // of no use later
		old := known[one.ID]
		switch {
		case old != nil && *old == one:
			now = append(now, old)
		case noted[one.holder()] < maxNoted:
			noted[one.holder()]++
			one.share(old)
			now, bytes = append(now, &one), bytes+one.bytes(old)
		case old != nil:
			now = append(now, old)
		}
	}
	slices.SortFunc(now, func(a, b *Refusal) int { return cmp.Or(-a.Last.Compare(b.Last), strings.Compare(a.ID, b.ID)) })
	if slices.Equal(now, before) {
		return before, 0
	}
	return now, bytes + 8*len(now)
}

// inTurn are all refusals: first those that the moment before lacks, then those that it has
// from longest ago.
func (r *refusals) inTurn(known map[string]*Refusal) []Refusal {
	since := func(one Refusal) time.Time {
		if old := known[one.ID]; old != nil {
			return old.Last
		}
		return time.Time{}
	}
	return slices.SortedFunc(values(r.all), func(a, b Refusal) int {
		return cmp.Or(since(a).Compare(since(b)), -a.Last.Compare(b.Last), strings.Compare(a.ID, b.ID))
	})
}

// texts are those that a later connection may change.
func (r *Refusal) texts() [6]*string {
	return [...]*string{&r.Policy, &r.Error, &r.Source, &r.Destination, &r.Pods[0], &r.Pods[1]}
}

// share takes texts from how it was at the moment before, so that they are in memory once.
func (r *Refusal) share(old *Refusal) {
	if old == nil {
		return
	}
	before := old.texts()
	for i, text := range r.texts() {
		if *text == *before[i] {
			*text = *before[i]
		}
	}
}

// bytes is how many it keeps beside what it shares with how it was before, about.
func (r *Refusal) bytes(old *Refusal) int {
	n := 400
	if old == nil {
		return n + len(r.ID+r.From+r.To+r.Service+r.Node+r.Word+r.Policy+r.Error+r.Source+r.Destination) + textsOf(r.Pods[:]) + textsOf(r.Identities[:])
	}
	before := old.texts()
	for i, text := range r.texts() {
		if *text != *before[i] {
			n += len(*text)
		}
	}
	return n
}

// recalled is what was refused until the moment of the frame, the last one first.
func (f *frame) recalled() []Refusal {
	all := make([]Refusal, len(f.refused))
	for i, one := range f.refused {
		all[i] = *one
	}
	return all
}
