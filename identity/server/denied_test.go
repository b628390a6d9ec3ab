// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

func TestANodeIsSentTheDenySet(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Denied = deny.NewSet() })
	addr, _ := serve(t, r)
	until := time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)
	r.cfg.Denied.Replace(0, []deny.Entry{
		{Kind: deny.KindNode, Value: "node-7", Until: until, Reason: "stolen"}, {Kind: deny.KindID, Value: webID}, {Kind: deny.KindSerial, Value: "4f1"},
		{Kind: deny.KindSPKI, Value: "00ff"}, {Kind: deny.KindIssuer, Value: "abcd"},
	})
	stream, err := dialSigner(t, r, addr).StreamDeny(outgoing(t, goodToken(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&identityv1.DenyAck{}); err != nil {
		t.Fatal(err)
	}
	set, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	all := set.GetEntries()
	if len(all) != 5 || set.GetGeneration() == 0 {
		t.Fatalf("%v", set)
	}
	if e := all[0]; e.GetNode() != "node-7" || !e.GetUntil().AsTime().Equal(until) || e.GetReason() != "stolen" {
		t.Errorf("%v", e)
	}
	if all[1].GetId() != webID || all[1].GetUntil() != nil || !bytes.Equal(all[2].GetSerial(), []byte{0x04, 0xf1}) ||
		!bytes.Equal(all[3].GetSpki(), []byte{0, 0xff}) || !bytes.Equal(all[4].GetIssuer(), []byte{0xab, 0xcd}) {
		t.Errorf("%v", all)
	}
	r.cfg.Denied.Replace(0, nil)
	next, err := stream.Recv()
	if err != nil || len(next.GetEntries()) != 0 || next.GetGeneration() <= set.GetGeneration() {
		t.Errorf("%v, %v", next, err)
	}
	if err := stream.Send(&identityv1.DenyAck{Generation: next.GetGeneration() + 1}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.InvalidArgument, "was not sent")

	none := newRig(t, nil)
	addr, _ = serve(t, none)
	stream, err = dialSigner(t, none, addr).StreamDeny(outgoing(t, goodToken(t)))
	if err == nil {
		_, err = stream.Recv()
	}
	wantStatus(t, err, codes.Unimplemented, "no deny set")
}

// A node that was at a replica which is ahead stays at what that one sent.
func TestANodeMayAcknowledgeWhatAnotherReplicaSent(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Denied = deny.NewSet() })
	addr, _ := serve(t, r)
	r.cfg.Denied.Replace(700, nil)
	stream, err := dialSigner(t, r, addr).StreamDeny(outgoing(t, goodToken(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, generation := range []uint64{710, 710, 711} {
		if err := stream.Send(&identityv1.DenyAck{Generation: generation}); err != nil {
			t.Fatal(err)
		}
	}
	if set, err := stream.Recv(); err != nil || set.GetGeneration() != 700 {
		t.Fatalf("%v, %v", set, err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.InvalidArgument, "711 was not sent")
}

// longest are n entries of those bytes of ID, and the longest reason.
func longest(n, bytes int) []deny.Entry {
	entries := make([]deny.Entry, n)
	for i := range entries {
		id := fmt.Sprintf("/ns/shop/sa/web-%d", i)
		id = "spiffe://" + strings.Repeat("a", bytes-len(id)-len("spiffe://")) + id
		entries[i] = deny.Entry{Kind: deny.KindID, Value: id, Until: time.Unix(1<<33, 0).UTC(), Reason: strings.Repeat("r", deny.MaxReason)}
	}
	return entries
}

// ztunnelTakes is how large a message ztunnel takes of the CA.
const ztunnelTakes = 256 << 10

// C.4: whatever set the CA takes, a node can receive it, and knows when it has it whole.
func TestEverySetThatTheCATakesReachesANode(t *testing.T) {
	for name, entries := range map[string][]deny.Entry{
		"nothing":                                nil,
		"one entry":                              longest(1, 2048),
		"as many as may be, in as much YAML":     longest(deny.MaxEntries, deny.MaxText/deny.MaxEntries-deny.MaxReason),
		"the longest, as many as YAML has place": longest(deny.MaxText/(2048+deny.MaxReason), 2048),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *Config) { c.Denied = deny.NewSet() })
			r.cfg.Denied.Replace(7, entries)
			addr, _ := serve(t, r)
			stream, err := dialSigner(t, r, addr).StreamDeny(outgoing(t, goodToken(t)), grpc.MaxCallRecvMsgSize(ztunnelTakes))
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&identityv1.DenyAck{}); err != nil {
				t.Fatal(err)
			}
			var got []*identityv1.DenyEntry
			for more := true; more; {
				part, err := stream.Recv()
				if err != nil {
					t.Fatalf("after %d of %d entries: %v", len(got), len(entries), err)
				}
				if size := proto.Size(part); size > identityv1.MaxDenyPart+64 || part.GetGeneration() != 7 {
					t.Fatalf("%d bytes of generation %d", size, part.GetGeneration())
				}
				got, more = append(got, part.GetEntries()...), part.GetMore()
			}
			if len(got) != len(entries) {
				t.Fatalf("%d of %d entries", len(got), len(entries))
			}
			for i, e := range entries {
				if got[i].GetId() != e.Value || got[i].GetReason() != e.Reason || !got[i].GetUntil().AsTime().Equal(e.Until) {
					t.Fatalf("entry %d is %v", i, got[i])
				}
			}
			if err := stream.Send(&identityv1.DenyAck{Generation: 7}); err != nil {
				t.Fatal(err)
			}
			r.cfg.Denied.Replace(8, []deny.Entry{{Kind: deny.KindNode, Value: "node-7"}})
			if next, err := stream.Recv(); err != nil || next.GetGeneration() != 8 || len(next.GetEntries()) != 1 || next.GetMore() {
				t.Errorf("the next set is %v, %v", next, err)
			}
		})
	}
}

// Thousands of streams hear of a change at once: they share its messages.
func TestAllStreamsSendTheSameMessages(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Denied = deny.NewSet() })
	r.cfg.Denied.Replace(7, longest(100, 100))
	var mu sync.Mutex
	seen := map[*identityv1.DenySet]bool{}
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			parts, generation, _ := r.denySet()
			mu.Lock()
			defer mu.Unlock()
			if seen[parts[0]] = true; generation != 7 {
				t.Errorf("generation %d", generation)
			}
		})
	}
	all.Wait()
	if len(seen) != 1 {
		t.Errorf("the set was made %d times", len(seen))
	}
}
