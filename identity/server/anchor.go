// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-mesh/culvert/identity/ledger"
)

var (
	ledgerAnchored = prometheus.NewDesc("culvert_identity_ledger_anchor_timestamp_seconds",
		"When the checkpoint that is kept outside of the ledger's disk was last seen to name all that was on it, in Unix time; the start of the process before that.", nil, nil)
	ledgerPutBack = prometheus.NewDesc("culvert_identity_ledger_anchor_lost",
		"Checkpoints of this replica, kept outside of the ledger's disk, whose lines the ledger does not have: it was put back, cut off, or lost.", nil, nil)
)

// collectAnchored is the metrics of how the ledger stands to its anchors.
func collectAnchored(a ledger.Anchored, gauge func(desc *prometheus.Desc, value float64, labels ...string)) {
	if a.State == "" {
		return
	}
	gauge(ledgerAnchored, float64(a.Current.UnixMilli())/1000)
	gauge(ledgerPutBack, float64(len(a.Lost)))
}

// dumpedLedger is the ledger in GET /config_dump.
type dumpedLedger struct {
	Failing bool          `json:"failing"` // its lines cannot be written now, or it is not open
	Chain   string        `json:"chain,omitempty"`
	Anchor  *dumpedAnchor `json:"anchor,omitempty"` // none: its checkpoint is on its own disk alone
}

type dumpedAnchor struct {
	State      string   `json:"state"` // waiting, held or lost
	Seq        uint64   `json:"seq"`   // that it names
	AgeSeconds float64  `json:"ageSeconds"`
	Lost       []string `json:"lost,omitempty"` // what of the ledger is, a sentence each
	Problem    string   `json:"problem,omitempty"`
}

// dump is nil if no ledger is kept.
func (a *accountant) dump() *dumpedLedger {
	kept := a.ledger.Load()
	switch {
	case kept == nil && a.failed:
		return &dumpedLedger{Failing: true}
	case kept == nil:
		return nil
	}
	is := kept.Anchored()
	d := &dumpedLedger{Failing: kept.Stats().Failing, Chain: is.Chain}
	if is.State != "" {
		d.Anchor = &dumpedAnchor{string(is.State), is.Seq, time.Since(is.Current).Seconds(), is.Lost, is.Problem}
	}
	return d
}
