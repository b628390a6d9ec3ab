// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"testing"
	"time"
)

// A lane is what stories would hurt each other on: a cluster, or the place for one more.
// Those of one lane are told one after another, in the order of the sources, and lanes
// beside each other: most of a story is waiting.
type lane struct{ last chan struct{} } // closed when the last story that joined has ended

// The lanes. No more than three clusters run at a time.
var (
	sharedLane lane // of the cluster sharedName
	meshLane   lane // of the cluster meshName
	ownLane    lane // of stories that have a cluster of their own
	lastLane   lane // of stories that measure: told when all others have ended
)

// allLanes lets go test tell as many stories at a time as there are lanes. By itself it
// tells as many as there are processors, and counts those that wait for their turn.
func allLanes() error {
	flag.Parse()
	return flag.Set("test.parallel", "1000")
}

// join returns when it is the story's turn. A test calls it once, before all that it does
// to a cluster.
func (l *lane) join(t *testing.T) {
	t.Helper()
	before, ended := l.last, make(chan struct{})
	l.last = ended // tests begin one after another, up to Parallel
	t.Cleanup(func() { close(ended) })
	t.Parallel() // returns when all tests have begun
	await := []chan struct{}{before}
	if l == &lastLane {
		await = append(await, sharedLane.last, meshLane.last, ownLane.last)
	}
	for _, story := range await {
		if story != nil {
			<-story
		}
	}
	begin := time.Now()
	t.Cleanup(func() { t.Logf("the story took %.1f s", time.Since(begin).Seconds()) })
}
