// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// decision is what one question was, and became: the audit record.
type decision struct {
	from     string // address; says nothing about who
	caller   Caller
	attested bool // caller has proved to speak for its node, or to be its process

	processes bool // outside Kubernetes may ask this, too

	id         string   // as asked for, until it is known to be well-formed
	pods       []string // UIDs of those that run on the node, in the mesh
	dnsNames   []string // of these pods, as the CA knows them
	spki       string   // SHA-256 of the CSR's key
	account    string   // UID of the ServiceAccount; not known
	wanted     time.Duration
	lifetimeBy string // who set it
	issued     *ca.Issued
	started    time.Time
}

func newDecision(ctx context.Context) *decision {
	d := &decision{started: time.Now()}
	if p, ok := peer.FromContext(ctx); ok {
		d.from = p.Addr.String()
	}
	return d
}

// asker is who asked, as far as that is known.
func (d *decision) asker() []any {
	c := d.caller
	return []any{
		logNode, c.Node, logNodeUID, c.NodeUID, logCaller, c.ServiceAccount.String(), logPod, c.Pod, logPodUID, c.PodUID,
		logToken, c.TokenID, logProcess, c.process.String(), logFrom, d.from,
	}
}

// record writes a decision down: one line of the log, and one of the ledger, allowed or
// denied; but not each that is denied to strangers. There is no other way to either for a
// decision, and none is answered before.
func (s *Server) record(d *decision, err error) {
	took := time.Since(d.started)
	s.metrics.answered(d, err)
	s.accountant.write(d, err, took)
	s.visits.note(d, err)
	attrs := append(d.asker(), logIdentity, d.id, logUIDOf, d.account, logPods, d.pods, logLifetime, d.lifetimeBy, logKeySHA256, d.spki)
	if err != nil {
		s.refusals.write("certificate denied", d, err, attrs...)
		return
	}
	s.leaves.note(d.caller.Node, d.issued.NotAfter)
	s.cfg.Log.Info("certificate issued", append(attrs, logSerial, d.issued.Serial.Text(16),
		logDNSNames, d.dnsNames, logNotBefore, d.issued.NotBefore, logNotAfter, d.issued.NotAfter, logIssuer, hex.EncodeToString(d.issued.Above[0].SubjectKeyId),
		slog.Duration(logTook, took))...)
}
