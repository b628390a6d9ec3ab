// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Ack is which trust bundle a node goes by, as it said on a stream to this replica.
type Ack struct {
	Generation uint64    `json:"generation"` // 0: it has none of a stream
	SHA256     string    `json:"sha256"`     // of the set, in hexadecimal; see identity.BundleHash
	Time       time.Time `json:"time"`       // when it said so
	Connected  bool      `json:"connected"`  // its stream is open: it hears of the next bundle at once
	// Rests is how many of its certificates and tunnels nothing but the roots of one key vouches
	// for, by identity.KeyHash in hexadecimal. A node says so while there are several keys.
	Rests        map[string]int `json:"rests,omitempty"`
	Certificates map[string]int `json:"certificates,omitempty"` // among them
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
		rests, certificates, err := restsOf(ack.GetRoots())
		if err != nil {
			return err
		}
		s.acks.put(c.Node, Ack{
			Generation: ack.GetGeneration(), SHA256: hex.EncodeToString(ack.GetSha256()), Time: time.Now().UTC(), Rests: rests, Certificates: certificates,
		})
		return nil
	})
}

// restsOf is what a node says of its roots, nil if it says nothing, and which part of it are
// certificates.
func restsOf(roots []*identityv1.RootUse) (rests, certificates map[string]int, err error) {
	if len(roots) > identityv1.MaxRoots {
		return nil, nil, status.Errorf(codes.InvalidArgument, "roots: there are %d, the limit is %d", len(roots), identityv1.MaxRoots)
	}
	for _, r := range roots {
		if len(r.GetKey()) != sha256.Size {
			return nil, nil, status.Errorf(codes.InvalidArgument, "roots: a key has %d bytes, want %d", len(r.GetKey()), sha256.Size)
		}
		if rests == nil {
			rests, certificates = make(map[string]int), make(map[string]int)
		}
		key := hex.EncodeToString(r.GetKey())
		rests[key], certificates[key] = int(r.GetCertificates())+int(r.GetTunnels()), int(r.GetCertificates())
	}
	return rests, certificates, nil
}

// bundle is the news of StreamBundle.
func (s *Server) bundle() ([]*identityv1.Bundle, uint64, <-chan struct{}) {
	changed := s.cfg.CA.Changed()
	generation, roots := s.cfg.CA.Bundle()
	if generation == 0 {
		return nil, 0, changed
	}
	return []*identityv1.Bundle{s.bundleSent.of(generation, roots, s.cfg.CA.Tainted(), s.cfg.CA.Federated())}, generation, changed
}

// bundleMessage is the message of the youngest bundle that was asked for: as long as nothing
// changes it is one, by which streams know that they have sent it.
type bundleMessage struct {
	mu      sync.Mutex // guards what follows
	tainted []ca.Key
	foreign ca.Federations
	is      *identityv1.Bundle
}

func (m *bundleMessage) of(generation uint64, roots []*x509.Certificate, tainted []ca.Key, foreign ca.Federations) *identityv1.Bundle {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.is.GetGeneration() == generation && slices.Equal(m.tainted, tainted) && m.foreign.Number == foreign.Number && sameSlice(m.foreign.All, foreign.All) {
		return m.is
	}
	hash := identity.BundleHash(roots)
	m.tainted, m.foreign, m.is = tainted, foreign, &identityv1.Bundle{Generation: generation, Sha256: hash[:], FederatedNumber: foreign.Number}
	for _, root := range roots {
		m.is.Roots = append(m.is.Roots, root.Raw)
	}
	for _, key := range tainted {
		m.is.Tainted = append(m.is.Tainted, key[:])
	}
	for _, f := range foreign.All {
		other := &identityv1.FederatedBundle{TrustDomain: f.TrustDomain.Name(), Sequence: f.Sequence}
		for _, root := range f.Roots {
			other.Roots = append(other.Roots, root.Raw)
		}
		m.is.Federated = append(m.is.Federated, other)
	}
	return m.is
}

// sameSlice reports whether two slices are one.
func sameSlice(a, b []ca.Foreign) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
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
