// SPDX-License-Identifier: Apache-2.0

package hbone

import "time"

// Yield asks one idle tunnel to end, in order to give a place of the pod's Share
// back, and reports whether there was one: that of the peer with the most, if it
// holds more than spared.
func (l *Listener) Yield(spared int) bool {
	return l.places.yield(func() bool { return l.dismissIdlest(spared) })
}

func (l *Listener) dismissIdlest(spared int) bool {
	ce := l.cfg.Census
	ce.mu.Lock()
	var leave func()
	if c := ce.idlest(spared, l); c != nil {
		leave = ce.dismiss(c)
	}
	ce.mu.Unlock()
	if leave == nil {
		return false
	}
	leave()
	return true
}

// Yield closes the tunnel that has been idle for longest, in order to give a place
// of the pod's Share back, and reports whether there was one. It spares those that
// were in use a moment ago.
func (p *Pool) Yield() bool { return p.places.yield(p.closeIdlest) }

func (p *Pool) closeIdlest() bool {
	c := p.idlest()
	if c == nil {
		return false
	}
	c.retire()
	return true
}

func (p *Pool) idlest() (found *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := time.Now().Add(-idleLeast)
	for _, t := range p.keys {
		for _, c := range t.list {
			if at, idle := c.idleSince(); idle && at.Before(since) {
				found, since = c, at
			}
		}
	}
	return found
}
