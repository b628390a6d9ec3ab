// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// probeFor bounds one question: ztunnel itself gives up after 12 s.
const probeFor = 20 * time.Second

// Question is what a node is asked to try for one of its pods, now. What the kernel does
// for the pod is always asked.
type Question struct {
	Pod      string         // its UID
	Peer     netip.AddrPort // where a tunnel is to lead; zero: none is tried
	Identity string         // whom the peer must prove to be
	App      netip.AddrPort // of the pod, to connect to; zero: none
	Client   netip.Addr     // as whom
}

// Query is the question as ztunnel's socket takes it.
func (q Question) query() url.Values {
	v := url.Values{"pod": {q.Pod}}
	if q.Peer.IsValid() {
		v.Set("peer", q.Peer.String())
		v.Set("identity", q.Identity)
	}
	if q.App.IsValid() {
		v.Set("app", q.App.String())
		v.Set("client", q.Client.String())
	}
	return v
}

// args is the command that asks, in a ztunnel's container.
func (q Question) args(own []string) []string {
	command := append([]string{"/bin/ztunnel", "probe"}, stateDir(own)...)
	for key, values := range q.query() {
		command = append(command, "-"+key+"="+values[0])
	}
	return command
}

// Proof is what came of a Question; nil: it was not asked for.
type Proof struct {
	Kernel *Outcome `json:"kernel"` // that it steers the pod
	Tunnel *Outcome `json:"tunnel"`
	App    *Outcome `json:"app"`
}

// Outcome is whether something worked.
type Outcome struct {
	OK      bool   `json:"ok"`
	Word    string `json:"word"`    // as in access records
	Error   string `json:"error"`   // why not
	Refused bool   `json:"refused"` // somebody answered, and nobody listens there
	Took    string `json:"took"`
	Shown   *bool  `json:"shown"` // of a tunnel that failed: the peer showed a certificate before; nil: an older ztunnel does not say
}

// MayProbe reports whether there is a way to ask the target to try anything.
func (t Target) MayProbe() bool { return t.probe != nil }

// Probe has a target's ztunnel try what a Question says. Its error is for a row of a table.
func (t Target) Probe(ctx context.Context, q Question) (p Proof, err error) {
	if t.probe == nil {
		return p, errors.New("no way to its socket is known")
	}
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	answer, err := t.probe(ctx, q)
	if err == nil {
		if err = json.Unmarshal(answer, &p); err != nil {
			err = fmt.Errorf("its answer is not understood: %v", err)
		}
	}
	return p, err
}

// stateDir is the flag that says where a ztunnel with these arguments has its socket.
func stateDir(args []string) (own []string) {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-state-dir=") {
			own = append(own, arg)
		}
	}
	return own
}
