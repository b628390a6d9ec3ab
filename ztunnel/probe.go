// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/admin"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
)

// prober is what the admin socket asks to have something tried for a pod: its UID as pod;
// where a tunnel is to lead and whom its peer must prove to be, as peer and identity; where
// its app is to accept a connection and from whom, as app and client.
func prober(members *pods.Pods) admin.Probe {
	return func(ctx context.Context, query url.Values) (any, error) {
		q, err := question(query)
		if err != nil {
			return nil, err
		}
		if !members.Loaded() {
			return nil, errors.New("the sandboxes of an earlier run are being taken over: ask again")
		}
		return members.Try(ctx, q)
	}
}

func question(query url.Values) (q pods.Question, err error) {
	for key := range query {
		switch key {
		case "pod", "peer", "identity", "app", "client":
		default:
			return q, fmt.Errorf("%q is no part of a question: want pod, peer, identity, app, client", key)
		}
	}
	if q.Pod = query.Get("pod"); q.Pod == "" {
		return q, errors.New("pod: want the UID of a pod")
	}
	if query.Has("peer") != query.Has("identity") {
		return q, errors.New("peer and identity: want both, or none")
	}
	if query.Has("app") != query.Has("client") {
		return q, errors.New("app and client: want both, or none")
	}
	if query.Has("peer") {
		if q.Peer.Addr, err = netip.ParseAddrPort(query.Get("peer")); err != nil {
			return q, fmt.Errorf("peer: %v", err)
		}
		if q.Peer.Dst, err = spiffeid.FromString(query.Get("identity")); err != nil {
			return q, fmt.Errorf("identity: %v", err)
		}
	}
	if query.Has("app") {
		if q.App, err = netip.ParseAddrPort(query.Get("app")); err != nil {
			return q, fmt.Errorf("app: %v", err)
		}
		if q.Client, err = netip.ParseAddr(query.Get("client")); err != nil {
			return q, fmt.Errorf("client: %v", err)
		}
	}
	return q, nil
}

// Probe has the ztunnel whose state is in a directory try what a query of prober's says, and
// returns its answer: JSON, of pods.Proof.
func Probe(ctx context.Context, stateDir string, query url.Values) ([]byte, error) {
	if _, err := question(query); err != nil {
		return nil, err
	}
	socket := Config{StateDir: stateDir}.adminSocket()
	answer, err := admin.Post(ctx, socket, "/probe?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("ask ztunnel at %s: %w", socket, err)
	}
	return answer, nil
}
