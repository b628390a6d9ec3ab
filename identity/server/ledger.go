// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/ledger"
	"github.com/culvert-mesh/culvert/rate"
)

// deniedLines bounds, for each node or process, the lines of the ledger about what it does
// not get: it can ask without end, and the ledger keeps so many bytes.
var deniedLines = rate.Limit{PerSecond: 1, Burst: 100}

// accountant has the ledger keep decisions.
type accountant struct {
	ledger atomic.Pointer[ledger.Ledger] // nil: there is none
	failed bool                          // there should be one

	mu     sync.Mutex // guards what follows
	denied map[string]*sample
	pruned time.Time
}

func newAccountant(cfg Config) *accountant {
	a := &accountant{failed: cfg.LedgerFailed, denied: map[string]*sample{}}
	a.ledger.Store(cfg.Ledger)
	return a
}

// UseLedger has decisions be kept from now on, where Config.LedgerFailed was said.
func (s *Server) UseLedger(l *ledger.Ledger) { s.accountant.ledger.Store(l) }

// write has the ledger keep a decision about a caller that proved who it is. What a
// stranger asks is counted only, and so is what was refused before it was looked at.
func (a *accountant) write(d *decision, err error, took time.Duration) {
	kept := a.ledger.Load()
	if kept == nil || !d.attested || reasonOf(err) == identityv1.Reason_TOO_MANY_REQUESTS {
		return
	}
	line := d.entry(took)
	if err == nil {
		kept.Issued(line)
		return
	}
	omitted, due := a.due(d.caller.holder())
	if !due {
		return
	}
	line.Code, line.Refusal, line.Reason, line.Omitted = status.Code(err).String(), word(err), status.Convert(err).Message(), omitted
	kept.Denied(line)
}

// entry is the decision as the ledger has it.
func (d *decision) entry(took time.Duration) ledger.Decision {
	c := d.caller
	e := ledger.Decision{
		Identity: d.id, AccountUID: d.account, Pods: d.pods, Node: c.Node, NodeUID: c.NodeUID, Caller: c.ServiceAccount.String(),
		Pod: c.Pod, PodUID: c.PodUID, Token: c.TokenID, Process: c.process.String(), From: d.from,
		KeySHA256: d.spki, Wanted: d.wanted.Seconds(), LifetimeBy: d.lifetimeBy, Took: took.Seconds(),
	}
	if d.issued != nil {
		e.Serial, e.DNSNames, e.NotBefore, e.NotAfter = d.issued.Serial.Text(16), d.dnsNames, d.issued.NotBefore, d.issued.NotAfter
		e.Issuer = hex.EncodeToString(d.issued.Above[0].SubjectKeyId)
	}
	return e
}

// due reports whether a refusal of the caller gets a line, and how many of its refusals got
// none since its last one.
func (a *accountant) due(holder string) (omitted int, due bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.prune(time.Now())
	s := a.denied[holder]
	if s == nil {
		s = new(sample)
		a.denied[holder] = s
	}
	if !s.left.Spend(deniedLines) {
		s.omitted++
		return 0, false
	}
	omitted, s.omitted = s.omitted, 0
	return omitted, true
}

// prune forgets, once a minute, the callers that have all they could have.
func (a *accountant) prune(now time.Time) {
	if now.Sub(a.pruned) < time.Minute {
		return
	}
	a.pruned = now
	for holder, s := range a.denied {
		if s.omitted == 0 && s.left.Whole(deniedLines) {
			delete(a.denied, holder)
		}
	}
}

var (
	ledgerLines = prometheus.NewDesc("culvert_identity_ledger_decisions_total",
		"Decisions that the ledger was given, by what they were.", []string{"decision"}, nil)
	ledgerLost = prometheus.NewDesc("culvert_identity_ledger_lost_total",
		"Lines of the ledger that are not kept: there was no room for them, or another hand took them away.", nil, nil)
	ledgerLate = prometheus.NewDesc("culvert_identity_ledger_late_total",
		"Decisions that were answered before their line of the ledger was written, since the disk was slow.", nil, nil)
	ledgerFailing = prometheus.NewDesc("culvert_identity_ledger_failing",
		"1 while lines of the ledger cannot be written: certificates are issued nevertheless.", nil, nil)
	ledgerUnsigned = prometheus.NewDesc("culvert_identity_ledger_unsigned",
		"1 while checkpoints of the ledger are not signed, since the CA certifies no key for them.", nil, nil)
	ledgerBytes = prometheus.NewDesc("culvert_identity_ledger_bytes",
		"Bytes of all files of the ledger's directory.", nil, nil)
	ledgerOldest = prometheus.NewDesc("culvert_identity_ledger_begin_timestamp_seconds",
		"When the oldest file of the ledger's directory was written to last, in Unix time.", nil, nil)
	ledgerRemoved = prometheus.NewDesc("culvert_identity_ledger_removed_files_total",
		"Files of the ledger that were removed by rule: they were old enough (age), or there was no room for more (room).", []string{"why"}, nil)
	ledgerAfter = prometheus.NewDesc("culvert_identity_ledger_start",
		"1 for how the process before left the ledger: first, closed, killed, stopped with its machine, or failing to write.", []string{"after"}, nil)
)

// collector is the ledger's metrics.
func (a *accountant) collector() prometheus.Collector {
	return collectorFunc(func(out chan<- prometheus.Metric) {
		gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		}
		kept := a.ledger.Load()
		if kept == nil {
			if a.failed {
				gauge(ledgerFailing, 1)
			}
			return
		}
		s := kept.Stats()
		count := func(desc *prometheus.Desc, n uint64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
		}
		count(ledgerLines, s.Issued, "issued")
		count(ledgerLines, s.Denied, "denied")
		count(ledgerLost, s.Lost)
		count(ledgerLate, s.Late)
		count(ledgerRemoved, s.RemovedByAge, "age")
		count(ledgerRemoved, s.RemovedForRoom, "room")
		gauge(ledgerFailing, flag(s.Failing))
		gauge(ledgerUnsigned, flag(s.Unsigned))
		gauge(ledgerBytes, float64(s.Bytes))
		gauge(ledgerAfter, 1, string(s.Ended))
		gauge(ledgerOldest, float64(s.Oldest.Unix()))
		collectAnchored(kept.Anchored(), gauge)
	})
}

func flag(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
