// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/hex"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// What a re-key of the root waits for: nodes with pods, with a stream or with a certificate,
// and what they say.
func TestAReplicaKnowsWhichNodesVerifyAndByWhat(t *testing.T) {
	r := newRig(t, nil)
	r.cfg.Placement.Replace([]Running{
		{Node: "node-1", ServiceAccount: web}, {Node: "node-2", ServiceAccount: web}, {Node: "node-3", ServiceAccount: web, Outside: "no label"},
	}, nil)
	heard := r.Heard(time.Time{})
	_, roots := r.cfg.CA.Bundle()
	if heard.Issuer != ca.Fingerprint(r.cfg.CA.Issuer()) || heard.Set != bundleHash(roots) || !heard.Placed || heard.Processes || len(heard.Nodes) != 2 {
		t.Errorf("%+v", heard)
	}
	addr, _ := serve(t, r)
	client := dialSigner(t, r, addr)
	stream, err := client.StreamBundle(outgoing(t, goodToken(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&identityv1.BundleAck{}); err != nil {
		t.Fatal(err)
	}
	bundle, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	key := identity.KeyHash(roots[0])
	if err := stream.Send(&identityv1.BundleAck{Generation: bundle.GetGeneration(), Sha256: bundle.GetSha256(),
		Roots: []*identityv1.RootUse{{Key: key[:], Certificates: 2, Tunnels: 3}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node's word is kept", func() bool {
		n := r.Heard(time.Time{}).Nodes["node-1"]
		return n.Connected && n.Pods && n.Set == heard.Set && n.Rests[hex.EncodeToString(key[:])] == 5 && n.Leaf.IsZero()
	})
	if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t)); err != nil {
		t.Fatal(err)
	}
	heard = r.Heard(time.Time{})
	if n := heard.Nodes["node-1"]; time.Until(n.Leaf) < 59*time.Minute || time.Since(n.Given) > time.Minute {
		t.Errorf("%+v", n)
	}
	// A process before this one may have given some that live longer, until they have ended.
	if longest := time.Duration(heard.Longest); longest != ca.MaxTTL {
		t.Errorf("soon after the start the longest is %v", longest)
	}
	r.leaves.mu.Lock()
	r.leaves.began = r.leaves.began.Add(-ca.MaxTTL)
	r.leaves.mu.Unlock()
	if longest := time.Duration(r.Heard(time.Time{}).Longest); longest != time.Hour {
		t.Errorf("a day later the longest is %v", longest)
	}
	if n := r.Heard(time.Now()).Nodes["node-1"]; n.Rests != nil || n.Set != heard.Set {
		t.Errorf("what it said before counts: %+v", n)
	}
	if n := heard.Nodes["node-2"]; !n.Pods || n.Connected || n.Set != "" {
		t.Errorf("%+v", n)
	}
	// What is no word of a node ends its stream.
	if err := stream.Send(&identityv1.BundleAck{Roots: []*identityv1.RootUse{{Key: []byte("x")}}}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.InvalidArgument, "roots: a key has 1 bytes, want 32")
}
