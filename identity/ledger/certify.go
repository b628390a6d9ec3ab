// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"crypto/x509"
	"time"
)

// keepCertified looks whether checkpoints need another key, until ctx ends. The CA's own
// signer may take long, or be away: nothing waits for it.
func (l *Ledger) keepCertified(ctx context.Context) {
	tick := time.NewTicker(certifyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.certify()
		}
	}
}

// certify takes another key if one is due. Until there is one, the former signs on while
// its certificate holds.
func (l *Ledger) certify() {
	if l.opts.Certify == nil {
		return
	}
	l.mu.Lock()
	is := l.signs
	l.mu.Unlock()
	now := time.Now()
	var issuer *x509.Certificate
	if l.opts.Issuer != nil {
		issuer = l.opts.Issuer()
	}
	if !is.stale(now, issuer) {
		return
	}
	next, err := newSigner(l.opts.Certify)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if unsigned := !is.holds(now); unsigned && !l.unsignedSaid {
			l.unsignedSaid = true
			l.opts.Log.Warn("checkpoints of the ledger are not signed for now", logError, err)
		}
		return
	}
	l.unsignedSaid = false
	if l.queued < maxQueue {
		l.tellMissingLocked()
		if is.holds(now) && l.seq > l.signed {
			l.checkpointLocked() // by the key before: it vouches for its own lines
		}
		if next.before = is; is != nil && (is.seq == 0 || is.seq > l.written) {
			next.before = is.before // no head can be signed by the one between
		}
		if next.before != nil {
			next.before.before = nil
		}
		l.signs = next
		l.nameSignerLocked()
		l.wake()
	}
}
