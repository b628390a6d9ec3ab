// SPDX-License-Identifier: Apache-2.0

package server

import (
	"maps"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

// Heard is what this replica does, and knows of nodes, for a re-key of the root. What rests on
// which root counts if a node has said it since a time.
func (s *Server) Heard(since time.Time) rekey.Report {
	generation, roots := s.cfg.CA.Bundle()
	report := rekey.Report{
		Set: bundleHash(roots), Placed: s.cfg.Placement.Synced(), Processes: s.cfg.Join != nil,
		Longest: rekey.Seconds(max(s.cfg.TTL, s.cfg.Accounts.longest(), s.leaves.longest(time.Now()))), Nodes: map[string]rekey.Node{},
	}
	if issuer := s.cfg.CA.Issuer(); issuer != nil {
		report.Issuer = ca.Fingerprint(issuer)
	}
	if key := s.cfg.CA.Signer(); key != nil && key.Trouble() != nil {
		report.Away = key.Trouble().Error()
	}
	if s.cfg.Trouble != nil {
		report.Trouble = s.cfg.Trouble().Problem
	}
	for node := range s.cfg.Placement.nodesInUse() {
		report.Nodes[node] = rekey.Node{Pods: true}
	}
	for node, l := range s.leaves.live(time.Now()) {
		n := report.Nodes[node]
		n.Leaf, n.Given = l.until, l.given
		report.Nodes[node] = n
	}
	for node, ack := range s.Acks() {
		n := report.Nodes[node]
		n.Connected = ack.Connected
		if ack.Generation >= generation {
			n.Set = ack.SHA256
		}
		n.Quiet = rekey.Seconds(max(0, time.Since(ack.Time)))
		if !ack.Time.Before(since) {
			n.Rests, n.Certificates = ack.Rests, ack.Certificates
		}
		report.Nodes[node] = n
	}
	return report
}

// nodesInUse are those that run pods which the mesh carries.
func (p *Placement) nodesInUse() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	nodes := make(map[string]bool)
	for at, pods := range p.running {
		for _, pod := range pods {
			if pod.Outside == "" {
				nodes[at.node] = true
			}
		}
	}
	return nodes
}

// longest is the longest lifetime that an object asks for.
func (a *Accounts) longest() (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.ttls {
		longest = max(longest, t.is)
	}
	return longest
}

// leaf is the last to end of the certificates that a node got.
type leaf struct {
	until time.Time
	given time.Time // the last of them
}

// leaves are those of each node that this replica gave some. Those that ended are forgotten.
type leaves struct {
	mu     sync.Mutex // guards what follows
	began  time.Time  // what was given before is not known
	byNode map[string]leaf
	life   time.Duration // of the longest
}

func newLeaves() *leaves { return &leaves{began: time.Now(), byNode: make(map[string]leaf)} }

// note keeps that a node, or a process, whose node is empty, got a certificate.
func (l *leaves) note(node string, until time.Time) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.life = max(l.life, until.Sub(now))
	if node == "" {
		return
	}
	is := l.byNode[node]
	is.given = now.UTC()
	if until.After(is.until) {
		is.until = until.UTC()
	}
	l.byNode[node] = is
}

// live are those that have not ended.
func (l *leaves) live(now time.Time) map[string]leaf {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.byNode, func(_ string, is leaf) bool { return now.Sub(is.until) > forgetAcks })
	all := maps.Clone(l.byNode)
	maps.DeleteFunc(all, func(_ string, is leaf) bool { return !now.Before(is.until) })
	return all
}

// longest is the longest lifetime of a certificate that may be in use. A process before this
// one may have given some under other settings, and nothing keeps for how long.
func (l *leaves) longest(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.began) < ca.MaxTTL {
		return ca.MaxTTL
	}
	return l.life
}
