// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/rate"
)

// strangerLines bounds, for each word, the log lines about callers that did not prove
// themselves, and about nodes that ask too often: both can ask without end.
var strangerLines = rate.Limit{PerSecond: 1, Burst: 10}

// refusals counts what is refused by its word, and writes it down.
type refusals struct {
	log   *slog.Logger
	total *prometheus.CounterVec

	mu    sync.Mutex // guards what follows
	lines map[identityv1.Reason]*sample
}

// sample is what became of the lines of one word.
type sample struct {
	left    rate.Left
	omitted int // since the last line
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{
		log: log,
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "culvert_identity_refusals_total",
			Help: "Requests and node checks that were refused, by the word for why.",
		}, []string{"reason"}),
		lines: make(map[identityv1.Reason]*sample),
	}
}

// write takes a refusal, and what its line says beside.
func (r *refusals) write(message string, d *decision, err error, attrs ...any) {
	reason := reasonOf(err)
	r.total.WithLabelValues(word(err)).Inc()
	omitted := 0
	if !d.attested || reason == identityv1.Reason_TOO_MANY_REQUESTS {
		var due bool
		if omitted, due = r.due(reason); !due {
			return
		}
	}
	r.log.Warn(message, append(attrs, logCode, status.Code(err).String(), logRefusal, word(err),
		logReason, status.Convert(err).Message(), logTook, time.Since(d.started), logOmitted, omitted)...)
}

// due reports whether a line may be written, and how many of its word were not since
// the last one.
func (r *refusals) due(reason identityv1.Reason) (omitted int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.lines[reason]
	if s == nil {
		s = new(sample)
		r.lines[reason] = s
	}
	if !s.left.Spend(strangerLines) {
		s.omitted++
		return 0, false
	}
	omitted, s.omitted = s.omitted, 0
	return omitted, true
}

// word is why, as a label's value: the Reason in lower case. What only we are to blame
// for has none.
func word(err error) string {
	if reason := reasonOf(err); reason != identityv1.Reason_REASON_UNSPECIFIED {
		return strings.ToLower(reason.String())
	}
	return "other"
}

// reasonOf is the word that a status bears.
func reasonOf(err error) identityv1.Reason {
	for _, detail := range status.Convert(err).Details() {
		if r, ok := detail.(*identityv1.Refusal); ok {
			return r.GetReason()
		}
	}
	return identityv1.Reason_REASON_UNSPECIFIED
}
