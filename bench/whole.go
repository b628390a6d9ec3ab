// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What a whole run has, beside all rows and the columns of peerNames.
const (
	wholeRepetitions = 7
	wholeDuration    = 2 * time.Second
	istios           = "ztunnel"
)

// Where runs are written, from this directory: the whole ones, which are
// committed, and all others.
const (
	committed = "results"
	apart     = "../bin/bench"
)

// destination returns the directory to write to. Only a whole run replaces the
// committed one.
func (m *measurement) destination() string {
	missing := m.missing()
	if filepath.Clean(m.opts.results) != committed || len(missing) == 0 {
		return m.opts.results
	}
	fmt.Fprintf(os.Stderr, "bench: this run is written to %s, and bench/%s stays as it is: it lacks %s\n",
		strings.TrimPrefix(apart, "../"), committed, strings.Join(missing, ", "))
	return apart
}

// missing lists what a whole run has and this one has not.
func (m *measurement) missing() (list []string) {
	for _, r := range (options{}).chosen() {
		cells := 0
		for _, s := range m.stages {
			if s.row.name == r.name {
				cells++
			}
		}
		if cells < len(r.cells) { // not asked for, or interrupted
			list = append(list, "row "+r.name)
		}
	}
	for _, name := range append(slices.Clone(peerNames), external{name: istios}.columns()...) {
		if !slices.ContainsFunc(m.peers, func(p *peer) bool { return p.name == name }) {
			list = append(list, "column "+name)
		}
	}
	if m.repetitions < wholeRepetitions || m.duration < wholeDuration {
		list = append(list, fmt.Sprintf("%d repetitions of %v", wholeRepetitions, wholeDuration))
	}
	return list
}
