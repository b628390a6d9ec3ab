// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/admin"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/verify"
)

// verifyParts are what each step of a trial is asked with.
var verifyParts = map[string][]string{
	"begin": {"pod", "pair", "mark"},
	"send":  {"id", "to"},
	"await": {"id"},
	"end":   {"id"},
}

// verifier is what the admin socket asks to have trials made: begin watches for packets with
// mark between pair, two addresses, on the node's devices and those of pod, its UID, and
// answers an id; send connects from that pod to an address and sends the mark; await waits
// for it; end answers what was seen.
func verifier(host string, members *pods.Pods) admin.Probe {
	trials := verify.New(verify.Config{Host: host, Pod: func(uid string) (*netns.NS, error) {
		if !members.Loaded() {
			return nil, errors.New("the sandboxes of an earlier run are being taken over: ask again")
		}
		return members.OpenNetns(uid)
	}})
	return func(ctx context.Context, query url.Values) (any, error) {
		if err := verifyQuery(query); err != nil {
			return nil, err
		}
		id := query.Get("id")
		switch query.Get("do") {
		case "begin":
			pair, err := pairOf(query.Get("pair"))
			if err != nil {
				return nil, err
			}
			id, err := trials.Begin(verify.Request{Pod: query.Get("pod"), Pair: pair, Mark: query.Get("mark")})
			return map[string]string{"id": id}, err
		case "send":
			to, err := netip.ParseAddrPort(query.Get("to"))
			if err != nil {
				return nil, fmt.Errorf("to: %v", err)
			}
			return trials.Send(ctx, id, to)
		case "await":
			arrived, err := trials.Await(ctx, id)
			return map[string]bool{"arrived": arrived}, err
		}
		return trials.End(id)
	}
}

// verifyQuery refuses what is no step of a trial.
func verifyQuery(query url.Values) error {
	do := query.Get("do")
	parts, known := verifyParts[do]
	if !known {
		return fmt.Errorf("do: %q is no step: want begin, send, await or end", do)
	}
	for key := range query {
		if key != "do" && !slices.Contains(parts, key) {
			return fmt.Errorf("%q is no part of %s: want %s", key, do, strings.Join(parts, ", "))
		}
	}
	for _, part := range parts {
		if query.Get(part) == "" && part != "pod" {
			return fmt.Errorf("%s: it is required with %s", part, do)
		}
	}
	return nil
}

func pairOf(text string) (pair verify.Pair, err error) {
	one, other, _ := strings.Cut(text, ",")
	for i, addr := range []string{one, other} {
		if pair[i], err = netip.ParseAddr(addr); err != nil {
			return pair, fmt.Errorf("pair: %v", err)
		}
		pair[i] = pair[i].Unmap()
	}
	return pair, nil
}

// Verify has the ztunnel whose state is in a directory do what a query of verifier's says,
// and returns its answer, in JSON.
func Verify(ctx context.Context, stateDir string, query url.Values) ([]byte, error) {
	if err := verifyQuery(query); err != nil {
		return nil, err
	}
	socket := Config{StateDir: stateDir}.adminSocket()
	answer, err := admin.Post(ctx, socket, "/verify?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("ask ztunnel at %s: %w", socket, err)
	}
	return answer, nil
}
