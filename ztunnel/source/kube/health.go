// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// health is what is wrong now, by what it is wrong with.
type health struct {
	asking  map[source.Kind]string // why the API server does not tell
	objects map[string]string      // what cannot be understood of an object
	cidrs   string                 // what the mesh CIDRs lack

	said   time.Time // when the log last had an object
	unsaid int       // how many it did not have since
}

func newHealth() health {
	return health{asking: map[source.Kind]string{}, objects: map[string]string{}}
}

// failing reports whether the API server does not tell something.
func (h *health) failing() bool { return len(h.asking) > 0 }

// old reports whether the API server does not tell where pods or nodes are.
func (h *health) old() bool {
	return h.asking[source.KindPod] != "" || h.asking[source.KindNode] != ""
}

// most is how many problems String names.
const most = 10

// String returns everything that is wrong, a line each.
func (h *health) String() string {
	var lines []string
	for _, kind := range slices.Sorted(maps.Keys(h.asking)) {
		lines = append(lines, fmt.Sprintf("%s: %s", kind, h.asking[kind]))
	}
	if h.cidrs != "" {
		lines = append(lines, h.cidrs)
	}
	for _, object := range slices.Sorted(maps.Keys(h.objects)) {
		lines = append(lines, fmt.Sprintf("%s: %s", object, h.objects[object]))
	}
	if n := len(lines); n > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(lines, "\n")
}

// answered takes how the API server answered for a kind.
func (s *Source) answered(k *kind, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard(k, err)
}

// heard does so with mu held. The log has the first of several kinds that fail
// together, and that all are well again.
func (s *Source) heard(k *kind, err error) {
	was := s.health.failing()
	if err == nil {
		if delete(s.health.asking, k.Kind); was && !s.health.failing() {
			s.options.Log.Info("the API server answers again", logServer, s.server)
		}
		return
	}
	s.health.asking[k.Kind] = err.Error()
	if !was {
		s.stats.Failures++
		s.options.Log.Warn("the API server does not tell everything; the last good state stays in force", logServer, s.server, logKind, k.Kind, logError, err)
		s.options.OnError(fmt.Errorf("%s: %w", k.Kind, err))
	}
	s.poke()
}

// notServed takes that the API server does not have a kind, now. That says nothing
// about objects of it that are known.
func (s *Source) notServed(k *kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.builder.Len(k.Kind); n > 0 {
		s.heard(k, fmt.Errorf("not served any more; %d of it stay in force until it is again", n))
	} else {
		s.heard(k, nil)
	}
	if !k.listed {
		k.listed = true
		s.options.Log.Info("the API server does not serve this kind; it is asked again", logKind, k.Kind)
		s.touch()
	}
}

// sayEvery bounds the log: whoever may write one object can write it all the time.
const sayEvery = time.Second

// say takes what is wrong with an object, which may be in force all the same, narrower than
// it was written; mu is held.
func (s *Source) say(k *kind, name source.Name, wrong string, inForce bool) {
	object := string(k.Kind) + " " + name.String()
	if wrong == "" {
		delete(s.health.objects, object)
		return
	}
	s.health.objects[object] = wrong
	level, message := slog.LevelWarn, "an object is in force, narrower than it was written"
	if !inForce {
		level, message = slog.LevelError, "an object is not understood"
		s.stats.Failures++
		s.options.OnError(fmt.Errorf("%s: %s", object, wrong))
	}
	if time.Since(s.health.said) < sayEvery {
		s.health.unsaid++
		return
	}
	s.options.Log.Log(context.Background(), level, message, logObject, object, logError, wrong, logOmitted, s.health.unsaid)
	s.health.said, s.health.unsaid = time.Now(), 0
}

// touch marks a change; mu is held.
func (s *Source) touch() {
	s.dirty = true
	if s.listed() {
		s.poke()
	}
}
