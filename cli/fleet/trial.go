// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

// trialFor bounds one step of a trial: ztunnel itself gives up after 12 s.
const trialFor = 20 * time.Second

// Trial is a watch on a node for a mark: which devices it passes, and whether it is
// plaintext there. A node ends it by itself after 30 s.
type Trial struct {
	target Target
	id     string
}

// Sent is the connection that a node opened for a pod.
type Sent struct {
	From  netip.AddrPort `json:"from,omitzero"`
	To    netip.AddrPort `json:"to"`
	Error string         `json:"error,omitempty"` // why it was not opened, or not written to
}

// Findings are what a node saw in a trial.
type Findings struct {
	Node  Seen   `json:"node"`
	Pod   *Seen  `json:"pod,omitempty"`   // nil: no pod of the node was watched
	Ended string `json:"ended,omitempty"` // how the connection ended before the trial did
}

// Seen is what passed on the devices of one network namespace.
type Seen struct {
	Devices []Device `json:"devices"` // on which packets between both ends passed
	Watched int      `json:"watched"`
	Dropped int      `json:"dropped"` // packets that nobody looked at
	Control bool     `json:"control"` // it saw the plaintext that it sent itself
	Problem string   `json:"problem,omitempty"`
}

// Device is what passed on one.
type Device struct {
	Name         string  `json:"name"`
	Loopback     bool    `json:"loopback,omitempty"`
	Packets      int     `json:"packets"`
	Tunnel       int     `json:"tunnel"` // of them from or to port 15008
	Encapsulated int     `json:"encapsulated,omitempty"`
	Marked       int     `json:"marked"` // with the mark in plaintext, whatever their addresses
	First        *Packet `json:"first,omitempty"`
}

// Packet is the first with the mark.
type Packet struct {
	Time  time.Time      `json:"time"`
	From  netip.AddrPort `json:"from"`
	To    netip.AddrPort `json:"to"`
	Bytes int            `json:"bytes"`
}

// Begin has a target watch for a mark between two addresses: on the node's devices, and on
// those of a pod of it, by its UID, if that is not empty.
func (t Target) Begin(ctx context.Context, pod string, one, other netip.Addr, mark string) (*Trial, error) {
	query := url.Values{"pair": {one.String() + "," + other.String()}, "mark": {mark}}
	if pod != "" {
		query.Set("pod", pod)
	}
	var began struct{ ID string }
	if err := t.try(ctx, "begin", query, &began); err != nil {
		return nil, err
	}
	return &Trial{t, began.ID}, nil
}

// Send has the pod connect and say the mark.
func (t *Trial) Send(ctx context.Context, to netip.AddrPort) (sent Sent, err error) {
	err = t.target.try(ctx, "send", url.Values{"id": {t.id}, "to": {to.String()}}, &sent)
	return sent, err
}

// Await reports whether the mark has come to the pod, or without one to the node, in five
// seconds.
func (t *Trial) Await(ctx context.Context) (arrived bool, err error) {
	var answer struct{ Arrived bool }
	err = t.target.try(ctx, "await", url.Values{"id": {t.id}}, &answer)
	return answer.Arrived, err
}

// End closes the connection, if this trial sent, and says what was seen.
func (t *Trial) End(ctx context.Context) (f Findings, err error) {
	err = t.target.try(ctx, "end", url.Values{"id": {t.id}}, &f)
	return f, err
}

// MayTry reports whether there is a way to ask the target for trials.
func (t Target) MayTry() bool { return t.verify != nil }

// try asks for one step.
func (t Target) try(ctx context.Context, do string, query url.Values, into any) error {
	if t.verify == nil {
		return errors.New("no way to its socket is known")
	}
	ctx, cancel := context.WithTimeout(ctx, trialFor)
	defer cancel()
	query.Set("do", do)
	answer, err := t.verify(ctx, query)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("its answer is not understood: %v", err)
	}
	return nil
}

// verifyArgs is the command of one step in a ztunnel's container.
func verifyArgs(own []string, query url.Values) []string {
	command := inPod(own, "verify")
	for _, key := range []string{"do", "pod", "pair", "mark", "id", "to"} {
		if query.Has(key) {
			command = append(command, "-"+key+"="+query.Get(key))
		}
	}
	return slices.Clip(command)
}
