// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// An anchor without a signature proves nothing, and could not be told from one that was made up.
func TestNothingIsAnchoredBeforeTheCAHasCertifiedTheKey(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	l := r.anchored(s, "ca-1")
	var signs atomic.Bool
	certify := l.opts.Certify
	l.opts.Certify = func(key crypto.PublicKey) ([]*x509.Certificate, error) {
		if !signs.Load() {
			return nil, errors.New("the signer is away")
		}
		return certify(key)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	l.Issued(decision(1))
	eventually(t, "the head has a checkpoint that nobody signed", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.promised.Seq > 0 })
	before := s.looked()
	eventually(t, "the ledger has looked at its anchors since", func() bool { return s.looked() > before+1 })
	if is := s.list(t); len(is) > 0 {
		t.Errorf("anchored: %+v", is)
	}
	signs.Store(true)
	eventually(t, "it is anchored", func() bool { return l.Anchored().Seq > 0 })
	if is := s.list(t); len(is) != 1 || is[0].Signature == nil {
		t.Errorf("anchored: %+v", is)
	}
}

func TestTheHeadOfAnotherChainIsFound(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	other.ca = r.ca
	r.keep("ca-1", 3)
	other.keep("ca-1", 3)
	for _, path := range r.files("*" + headSuffix) {
		r.set(path, other.text(other.files("*" + headSuffix)[0]))
	}
	r.wantFault("it is of the chain " + other.wantWhole().Chains[0].ID + ", which no line names")
}

// How far another chain had come says nothing of where this one ends.
func TestALineThatIsBeingWrittenIsNoFaultByAnAnchorOfAnotherChain(t *testing.T) {
	t.Parallel()
	r, s := newRig(t), &shelf{}
	r.keep("ca-1", 3)
	s.set("ca-1.c0ffee", &Checkpoint{Replica: "ca-1", Chain: "c0ffee", Seq: 900, Hash: aHash, Time: time.Now()})
	last := r.lastFile()
	r.set(last, append(r.text(last), `{"seq":`...))
	faults := r.faults(s)
	if !strings.Contains(faults, "the chain c0ffee of ca-1 had come to seq 900") || strings.Contains(faults, "cut off") {
		t.Errorf("faults %s", faults)
	}
}
