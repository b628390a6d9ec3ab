// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

const (
	maxSandboxes = 8192 // recorded on this node: as many as two nodes have pods
	maxNetworks  = 32   // of one sandbox
)

// claimed records what a request claims.
func (p *Pods) claimed(req enroll.Request, podUID string) (*pod, error) {
	s, err := p.claim(req, podUID)
	if err != nil {
		return nil, err
	}
	return p.record(s)
}

// claim turns a request into a record after checking what it claims: the netns
// holds one of the addresses or more, is not the node's, and is nobody else's.
func (p *Pods) claim(req enroll.Request, podUID string) (sandbox, error) {
	ns, err := netns.Open(req.Netns)
	if err != nil {
		return sandbox{}, fmt.Errorf("netns: %w", err)
	}
	defer ns.Close()
	if _, err := p.mayHold(ns, req.IPs); err != nil {
		return sandbox{}, fmt.Errorf("netns %s: %w", req.Netns, err)
	}
	if pod, known := p.byCookie(ns.Cookie()); len(req.IPs) == 0 && (!known || pod.sandbox().ContainerID != req.ContainerID) {
		// A second network may do without.
		return sandbox{}, errors.New("ips: the previous plugin gave the pod no address")
	}
	if podUID == "" {
		podUID = req.PodUID
	}
	s := sandbox{ContainerID: req.ContainerID, PodUID: podUID, Namespace: req.PodNamespace, Name: req.PodName,
		Netns: req.Netns, Cookie: ns.Cookie(), Inode: ns.Inode(), BootID: p.boot,
		Networks: []network{{Name: req.Network, IfName: req.IfName, IPs: req.IPs}}}
	return s, p.unclaimed(s)
}

// record remembers s, on disk first: what is enrolled must survive us. One netns
// has one record, as two would undo each other's steering: what is said of it
// again, by a repeated ADD or one for another network, changes the record and
// cuts nothing. A container that has another netns now has lost the old one.
func (p *Pods) record(s sandbox) (*pod, error) {
	for _, old := range p.all() {
		if was := old.sandbox(); was.ContainerID == s.ContainerID && was.Cookie != s.Cookie {
			if err := p.takeOff(old, func(network) bool { return true }); err != nil {
				return nil, err
			}
		}
	}
	pod, known, err := p.recordNew(s)
	if known && err == nil {
		err = p.amend(pod, s)
	}
	return pod, err
}

// recordNew records s unless its netns has a record.
func (p *Pods) recordNew(s sandbox) (pod *pod, known bool, err error) {
	p.recording.Lock()
	defer p.recording.Unlock()
	if err := p.unclaimed(s); err != nil { // in the meantime
		return nil, false, err
	}
	if pod, known := p.byCookie(s.Cookie); known {
		return pod, true, nil
	}
	if n := len(p.all()); n >= maxSandboxes {
		return nil, false, fmt.Errorf("%d sandboxes of this node are recorded, which is the limit", n)
	}
	if err := p.files.write(s); err != nil {
		return nil, false, err
	}
	return p.remember(s, s.Netns), false, nil
}

// amend brings the record of pod up to what was said later.
func (p *Pods) amend(pod *pod, later sandbox) error {
	defer pod.lock()()
	if pod.gone {
		return fmt.Errorf("netns %s ended meanwhile", later.Netns)
	}
	before := pod.sandbox()
	s := before.with(later)
	if len(s.Networks) > maxNetworks {
		return fmt.Errorf("pod %v is on %d networks, which is the limit", pod, maxNetworks)
	}
	if reflect.DeepEqual(s, before) {
		return nil
	}
	if err := p.store(pod, s); err != nil {
		return err
	}
	pod.path, pod.lost = s.Netns, false
	if pod.member == nil {
		return nil
	}
	return p.refresh(pod.member) // the answer says that its new addresses are steered
}

// store puts s in the place of pod's record; pod.mu is held.
func (p *Pods) store(pod *pod, s sandbox) error {
	if err := p.files.write(s); err != nil {
		return err
	}
	pod.known.Store(&s)
	return nil
}

func (p *Pods) byCookie(cookie netns.Cookie) (*pod, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, ok := p.byNetns[cookie]
	return pod, ok
}

// byID returns the sandbox of a container.
func (p *Pods) byID(containerID string) (*pod, bool) {
	for _, pod := range p.all() {
		if pod.sandbox().ContainerID == containerID {
			return pod, true
		}
	}
	return nil, false
}
