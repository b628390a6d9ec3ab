// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	caserver "github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/test/env"
)

// A node hears of denials from two replicas at a time, so that one which is gone delays
// nothing, and tells each what it enforces.
func TestADenialIsHeardOfWhileTheOtherReplicaIsAway(t *testing.T) {
	authority := newCA(t, td)
	var sets [2]*deny.Set
	var replicas [2]*caserver.Server
	var endpoints [2]netip.AddrPort
	var cfg ClientConfig
	placement := caserver.NewPlacement()
	placement.Replace([]caserver.Running{{Node: "node-1", ServiceAccount: identity.ServiceAccount{Namespace: "shop", Name: "web"}, UID: "u"}}, nil)
	for i := range replicas {
		sets[i] = deny.NewSet()
		sets[i].Replace(7, []deny.Entry{denyID(db)})
		replicas[i], cfg = serveReal(t, caserver.Config{CA: authority, Placement: placement, Denied: sets[i]})
		endpoints[i] = newWayAddr(t, cfg.Address)
	}
	cfg.Endpoints = func() []netip.AddrPort { return endpoints[:] }
	cfg.ServerName = caName
	enforced := make(chan struct{}, 10)
	r := run(t, Config{TTL: time.Hour, Node: "node-1", OnDeny: func() { enforced <- struct{}{} }}, nil, dial(t, cfg))
	waitFor(t, "both replicas are heard", func() bool { return r.Denying().Connected == 2 })
	for i, ca := range replicas {
		waitFor(t, fmt.Sprintf("replica %d knows", i), func() bool { return ca.Denying()["node-1"] == 7 })
	}
	if got := r.Denying(); got.Generation != 7 || got.Entries != 1 || got.AgeSeconds != 0 {
		t.Errorf("%+v", got)
	}
	<-enforced

	hold(t, r, web)
	waitFor(t, "a certificate", func() bool { return r.Stats().Held[Valid] == 1 })
	watch := env.NewStopwatch()
	sets[1].Replace(8, []deny.Entry{denyID(web)}) // the other replica is behind, and stays so
	<-enforced
	if took := watch.Elapsed(); took > 5*time.Second {
		t.Errorf("enforced after %v", took)
	}
	if _, err := r.ServerPair(t.Context(), web); !isDenied(err) {
		t.Errorf("%v", err)
	}
	waitFor(t, "it is acknowledged", func() bool { return replicas[1].Denying()["node-1"] == 8 })
}

func newWayAddr(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestACAWithoutADenySetIsToldFromOneThatIsAway(t *testing.T) {
	_, cfg := serveReal(t, caserver.Config{CA: newCA(t, td), Placement: caserver.NewPlacement()})
	if err := dial(t, cfg).FollowDeny(soon(t), 0, nil); !errors.Is(err, errNoDenySet) {
		t.Errorf("no deny set: %v", err)
	}
	cfg.Address = "127.0.0.1:1"
	var known *Problem
	if err := dial(t, cfg).FollowDeny(soon(t), 0, nil); !errors.As(err, &known) || known.Reason != Unreachable {
		t.Errorf("nobody: %v", err)
	}
}

// Whatever a CA sends is bounded, and one entry that is not understood costs no other.
func TestASetIsReadPartByPart(t *testing.T) {
	id := func(name string) *identityv1.DenyEntry {
		return &identityv1.DenyEntry{What: &identityv1.DenyEntry_Id{Id: "spiffe://cluster.local/ns/shop/sa/" + name}}
	}
	all := []*identityv1.DenyEntry{
		id("web"),
		{What: &identityv1.DenyEntry_Node{Node: "node-7"}, Reason: "stolen", Until: timestamppb.New(time.Unix(1<<31, 0))},
		{What: &identityv1.DenyEntry_Serial{Serial: []byte{0x4f, 1}}},
		{What: &identityv1.DenyEntry_Spki{Spki: make([]byte, 32)}},
		{What: &identityv1.DenyEntry_Issuer{Issuer: []byte{0xab}}},
	}
	read := func(parts ...*identityv1.DenySet) (DenySet, error) {
		return receiveDeny(func() (*identityv1.DenySet, error) {
			if len(parts) == 0 {
				return nil, io.EOF
			}
			part := parts[0]
			parts = parts[1:]
			return part, nil
		})
	}
	got, err := read(&identityv1.DenySet{Generation: 7, Entries: all[:2], More: true}, &identityv1.DenySet{Generation: 7, Entries: all[2:]})
	if err != nil || got.Generation != 7 || len(got.Entries) != 5 || got.Unread != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if e := got.Entries[1]; e.String() != "node node-7, until 2038-01-19T03:14:08Z: stolen" {
		t.Errorf("%v", e)
	}
	got, err = read(&identityv1.DenySet{Generation: 7, Entries: []*identityv1.DenyEntry{{}, id("web"), id("web/..")}})
	if err != nil || len(got.Entries) != 1 || got.Unread == "" {
		t.Errorf("with others that are not understood: %+v, %v", got, err)
	}
	many := make([]*identityv1.DenyEntry, deny.MaxEntries/2+1)
	for i := range many {
		many[i] = id("web")
	}
	for name, parts := range map[string][]*identityv1.DenySet{
		"without a generation": {{Entries: all}},
		"of two generations":   {{Generation: 7, More: true}, {Generation: 8}},
		"cut off":              {{Generation: 7, More: true}},
		"too many":             {{Generation: 7, Entries: many, More: true}, {Generation: 7, Entries: many}},
	} {
		if got, err := read(parts...); err == nil {
			t.Errorf("%s: %d entries", name, len(got.Entries))
		}
	}
}
