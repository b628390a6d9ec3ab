// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Ack is which trust bundle a node goes by, as it said on a stream to this replica.
type Ack struct {
	Generation uint64    `json:"generation"` // 0: it has none of a stream
	SHA256     string    `json:"sha256"`     // of the set, in hexadecimal; see identity.BundleHash
	Time       time.Time `json:"time"`       // when it said so
	Connected  bool      `json:"connected"`  // its stream is open: it hears of the next bundle at once
}

// StreamBundle sends the CA's bundle to a node, and again whenever it changes.
func (s *Server) StreamBundle(stream grpc.BidiStreamingServer[identityv1.BundleAck, identityv1.Bundle]) error {
	return push(s, s.bundles, stream, s.bundle, func(c Caller, ack *identityv1.BundleAck, sent uint64) error {
		if sent != 0 && ack.GetGeneration() > sent {
			return status.Errorf(codes.InvalidArgument, "generation: %d was not sent, the latest is %d", ack.GetGeneration(), sent)
		}
		if n := len(ack.GetSha256()); n != 0 && n != sha256.Size {
			return status.Errorf(codes.InvalidArgument, "sha256: there are %d bytes, want %d or none", n, sha256.Size)
		}
		s.acks.put(c.Node, Ack{Generation: ack.GetGeneration(), SHA256: hex.EncodeToString(ack.GetSha256()), Time: time.Now().UTC()})
		return nil
	})
}

// bundle is the news of StreamBundle.
func (s *Server) bundle() ([]*identityv1.Bundle, uint64, <-chan struct{}) {
	changed := s.cfg.CA.Changed()
	generation, roots := s.cfg.CA.Bundle()
	if generation == 0 {
		return nil, 0, changed
	}
	hash := identity.BundleHash(roots)
	message := &identityv1.Bundle{Generation: generation, Sha256: hash[:]}
	for _, root := range roots {
		message.Roots = append(message.Roots, root.Raw)
	}
	return []*identityv1.Bundle{message}, generation, changed
}

// Acks returns, by node, which bundle each goes by. A node that has had no stream to
// this replica for an hour is not among them.
func (s *Server) Acks() map[string]Ack {
	all := s.acks.all()
	for node, ack := range all {
		ack.Connected = s.bundles.open(node)
		all[node] = ack
		if !ack.Connected && time.Since(ack.Time) > forgetAcks {
			delete(all, node)
			s.acks.forget(node)
		}
	}
	return all
}

const (
	// forgetAcks is how long a node without a stream is remembered.
	forgetAcks = time.Hour
	// maxAcks bounds the nodes. Their names are proved, but who proves them may err.
	maxAcks = 16384
)

var nodesDesc = prometheus.NewDesc("culvert_identity_nodes",
	"Nodes that follow the bundle by a stream to this replica: those that go by the one it gives, and those that do not yet.", []string{"bundle"}, nil)

// followers collects how many nodes go by which bundle.
type followers struct{ of *Server }

// Describe is part of prometheus.Collector.
func (f followers) Describe(out chan<- *prometheus.Desc) { out <- nodesDesc }

// Collect is part of prometheus.Collector.
func (f followers) Collect(out chan<- prometheus.Metric) {
	_, roots := f.of.cfg.CA.Bundle()
	given, nodes := bundleHash(roots), map[string]int{"current": 0, "behind": 0}
	for _, ack := range f.of.Acks() {
		switch {
		case !ack.Connected:
		case ack.SHA256 == given:
			nodes["current"]++
		default:
			nodes["behind"]++
		}
	}
	for which, n := range nodes {
		out <- prometheus.MustNewConstMetric(nodesDesc, prometheus.GaugeValue, float64(n), which)
	}
}

type acks struct {
	mu     sync.Mutex // guards byNode
	byNode map[string]Ack
}

// put forgets any other node if there are too many.
func (a *acks) put(node string, ack Ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.byNode[node]; !known {
		for other := range a.byNode {
			if len(a.byNode) < maxAcks {
				break
			}
			delete(a.byNode, other)
		}
	}
	a.byNode[node] = ack
}

func (a *acks) all() map[string]Ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[string]Ack, len(a.byNode))
	for node, ack := range a.byNode {
		all[node] = ack
	}
	return all
}

func (a *acks) forget(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byNode, node)
}
