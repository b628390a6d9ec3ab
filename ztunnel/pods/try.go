// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Question is what an operator has one pod of this node try.
type Question struct {
	Pod    string         // its UID; required
	Peer   hbone.Key      // of a tunnel that is to be proved; default none
	App    netip.AddrPort // of the pod, at which its app is to accept a connection; default none
	Client netip.Addr     // as whom it is connected to; required with App
}

// Proof is what came of it; nil: it was not asked for.
type Proof struct {
	Kernel *Outcome `json:"kernel"`
	Tunnel *Outcome `json:"tunnel,omitempty"`
	App    *Outcome `json:"app,omitempty"`
}

// Outcome is whether something worked.
type Outcome struct {
	OK      bool   `json:"ok"`
	Word    string `json:"word,omitempty"` // as in access records
	Error   string `json:"error,omitempty"`
	Refused bool   `json:"refused,omitempty"` // somebody answered, and nobody listens there
	Took    string `json:"took"`
	Shown   *bool  `json:"shown,omitempty"` // of a tunnel that failed: the peer showed a certificate before
}

// mayTry is how many questions are answered at the same time.
const mayTry = 4

// Try asks the kernel whether it steers a pod at this moment, and tries what else q
// says. The app gets a connection without a byte. The error is of a question that cannot
// be asked.
func (p *Pods) Try(ctx context.Context, q Question) (proof Proof, err error) {
	m := p.memberOf(q.Pod)
	if m == nil {
		return proof, fmt.Errorf("pod: no pod with UID %q is enrolled on this node", q.Pod)
	}
	if err := p.mayDial(m, q); err != nil {
		return proof, err
	}
	if p.trying.Add(1) > mayTry {
		p.trying.Add(-1)
		return proof, fmt.Errorf("%d questions are being answered already: ask again", mayTry)
	}
	defer p.trying.Add(-1)
	proof.Kernel = outcome(time.Now(), p.inKernel(m))
	if q.Peer != (hbone.Key{}) {
		began := time.Now()
		err := m.carrier.pool.Prove(ctx, q.Peer)
		if proof.Tunnel = outcome(began, err); err != nil {
			proof.Tunnel.Shown = new(hbone.Shown(err))
		}
	}
	if q.App.IsValid() {
		began := time.Now()
		conn, err := p.Datapath.DialInner(m.ns)(ctx, netip.AddrPortFrom(q.Client, 0), q.App)
		if err == nil {
			conn.Close()
		}
		proof.App = outcome(began, err)
	}
	return proof, nil
}

// memberOf is the member of a pod; nil: it is not in the mesh.
func (p *Pods) memberOf(uid string) *member {
	for _, pod := range p.all() {
		if s := pod.sandbox(); s.PodUID != uid || s.deleted() {
			continue
		}
		if m := pod.shown.Load().member; m != nil {
			return m
		}
	}
	return nil
}

// OpenNetns opens the netns of a pod of this node, which is in the mesh or not. Whoever
// calls it closes it.
func (p *Pods) OpenNetns(uid string) (*netns.NS, error) {
	for _, pod := range p.all() {
		s := pod.sandbox()
		if s.PodUID != uid || s.deleted() {
			continue
		}
		ns, err := netns.Open(s.Netns)
		if err != nil {
			return nil, fmt.Errorf("pod: %v: %w", s, err)
		}
		if ns.Cookie() != s.Cookie {
			ns.Close()
			return nil, fmt.Errorf("pod: %v: %s is another netns than the one that was recorded", s, s.Netns)
		}
		return ns, nil
	}
	return nil, fmt.Errorf("pod: no sandbox of a pod with UID %q is known on this node", uid)
}

// mayDial refuses an app that is not the pod's.
func (p *Pods) mayDial(m *member, q Question) error {
	switch {
	case !q.App.IsValid():
		return nil
	case !p.Datapath.IsOwn(m.Cookie, q.App.Addr()):
		return fmt.Errorf("app: %v is no address of pod %s", q.App.Addr(), m.sandbox.String())
	case q.App.Port() == workload.HBONEPort || q.App.Port() == 0:
		return fmt.Errorf("app: port %d is no app's", q.App.Port())
	case q.Client.Is4() != q.App.Addr().Is4() || q.Client.IsUnspecified() || q.Client.IsMulticast() || q.Client.IsLoopback():
		return fmt.Errorf("client: %v cannot be a client of %v", q.Client, q.App)
	}
	return nil
}

// inKernel is what the kernel does not do for m at this moment.
func (p *Pods) inKernel(m *member) error {
	wrong := p.Datapath.Missing(m.Cookie)
	if err := p.Datapath.Sound(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, ", "))
}

func outcome(began time.Time, err error) *Outcome {
	o := &Outcome{OK: err == nil, Took: time.Since(began).Round(time.Microsecond).String()}
	if err == nil {
		return o
	}
	o.Error, o.Word = err.Error(), string(hbone.ErrDial)
	if cause, ok := errors.AsType[hbone.Cause](err); ok {
		o.Word = string(cause)
	}
	o.Refused = errors.Is(err, syscall.ECONNREFUSED)
	return o
}
