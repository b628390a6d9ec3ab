// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/hex"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// denied asks whether the deny set has the identity, the node, the key or the issuer, or
// the certificate by which a process asks. A set that is not known yet might have any.
func (s *Server) denied(d *decision) error {
	if s.cfg.Denied == nil {
		return nil
	}
	if err := s.cfg.Denied.Unknown(); err != nil {
		return refusal(codes.Unavailable, identityv1.Reason_CA_NOT_READY, "%v", err)
	}
	subject := deny.Subject{ID: d.id, Node: d.caller.Node, SPKI: d.spki}
	if issuer := s.cfg.CA.Issuer(); issuer != nil {
		subject.Issuer = hex.EncodeToString(issuer.SubjectKeyId)
	}
	if entry, is := s.matchDenied(subject); is {
		return refusal(codes.PermissionDenied, identityv1.Reason_DENIED, "denied: %v", entry)
	}
	if p := d.caller.process; p != nil {
		if entry, is := s.matchDenied(p.proof...); is {
			return refusal(codes.PermissionDenied, identityv1.Reason_DENIED, "denied: the client's certificate: %v", entry)
		}
	}
	return nil
}

// matchDenied returns an entry that denies one of the subjects now.
func (s *Server) matchDenied(subjects ...deny.Subject) (deny.Entry, bool) {
	now := time.Now()
	for _, subject := range subjects {
		if entry, is := s.cfg.Denied.Match(subject, now); is {
			return entry, true
		}
	}
	return deny.Entry{}, false
}

// StreamDeny sends the deny set to a node, and again whenever it changes.
func (s *Server) StreamDeny(stream grpc.BidiStreamingServer[identityv1.DenyAck, identityv1.DenySet]) error {
	if s.cfg.Denied == nil {
		return status.Error(codes.Unimplemented, "this CA has no deny set")
	}
	var had uint64 // of another replica, which may be ahead
	return push(s, s.denials, stream, s.denySet, func(c Caller, ack *identityv1.DenyAck, sent uint64) error {
		if sent == 0 {
			had = max(had, ack.GetGeneration())
		} else if ack.GetGeneration() > max(sent, had) {
			return status.Errorf(codes.InvalidArgument, "generation: %d was not sent, the latest is %d", ack.GetGeneration(), sent)
		}
		s.denyAcks.put(c.Node, Ack{Generation: ack.GetGeneration(), Time: time.Now().UTC()})
		return nil
	})
}

// Denying returns the generation of the deny set that each node enforces, as it told this
// replica on a stream that is open.
func (s *Server) Denying() map[string]uint64 {
	denying := map[string]uint64{}
	for node, ack := range s.denyAcks.all() {
		if !s.denials.open(node) {
			s.denyAcks.forget(node)
			continue
		}
		denying[node] = ack.Generation
	}
	return denying
}

// denySet is the news of StreamDeny.
func (s *Server) denySet() ([]*identityv1.DenySet, uint64, <-chan struct{}) {
	generation, entries, changed := s.cfg.Denied.Entries()
	parts, generation := s.denySent.of(generation, entries)
	return parts, generation, changed
}

// denyParts are the messages of the youngest set that was asked for. All streams send the
// same ones: a set may be large, and all nodes are told of it at once.
type denyParts struct {
	mu         sync.Mutex // guards what follows
	generation uint64
	parts      []*identityv1.DenySet
}

// of returns the messages of the set, or of a younger one.
func (p *denyParts) of(generation uint64, entries []deny.Entry) ([]*identityv1.DenySet, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.generation < generation {
		p.generation, p.parts = generation, split(generation, entries)
	}
	return p.parts, p.generation
}

// split puts a set into messages of MaxDenyPart: a node takes no message of any size.
func split(generation uint64, entries []deny.Entry) []*identityv1.DenySet {
	part := &identityv1.DenySet{Generation: generation}
	parts, size := []*identityv1.DenySet{part}, 0
	for _, e := range entries {
		entry := denyEntry(e)
		needs := protowire.SizeTag(2) + protowire.SizeBytes(proto.Size(entry))
		if size += needs; size > identityv1.MaxDenyPart && len(part.Entries) > 0 {
			part.More = true
			part, size = &identityv1.DenySet{Generation: generation}, needs
			parts = append(parts, part)
		}
		part.Entries = append(part.Entries, entry)
	}
	return parts
}

func denyEntry(e deny.Entry) *identityv1.DenyEntry {
	out := &identityv1.DenyEntry{Reason: e.Reason}
	if !e.Until.IsZero() {
		out.Until = timestamppb.New(e.Until)
	}
	digits := e.Value
	if len(digits)%2 == 1 { // a serial number without leading zeros
		digits = "0" + digits
	}
	bytes, _ := hex.DecodeString(digits) // of those kinds that have digits, which were checked
	switch e.Kind {
	case deny.KindID:
		out.What = &identityv1.DenyEntry_Id{Id: e.Value}
	case deny.KindNode:
		out.What = &identityv1.DenyEntry_Node{Node: e.Value}
	case deny.KindSerial:
		out.What = &identityv1.DenyEntry_Serial{Serial: bytes}
	case deny.KindSPKI:
		out.What = &identityv1.DenyEntry_Spki{Spki: bytes}
	case deny.KindIssuer:
		out.What = &identityv1.DenyEntry_Issuer{Issuer: bytes}
	}
	return out
}
