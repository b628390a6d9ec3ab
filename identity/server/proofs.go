// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

const (
	// proofFresh is how long an answer of the API server counts without asking again.
	proofFresh = time.Minute
	// proofStale is how long it counts while the API server is away, so that nodes
	// go on renewing certificates.
	proofStale = time.Hour
	// podProofs bounds the tokens of one pod: the kubelet replaces its token once in a while.
	podProofs = 4
	// maxProofs bounds the pods.
	maxProofs = 8192
)

// proof is what the API server said of a token. It ends with the token, and with the
// pod: whoever uses one asks Placement, too.
type proof struct {
	token   [sha256.Size]byte
	caller  Caller
	at      time.Time
	expires time.Time // of the token
}

// proofs are those of a while.
type proofs struct {
	mu    sync.Mutex // guards what follows
	byPod map[string][]proof
}

func newProofs() *proofs { return &proofs{byPod: make(map[string][]proof)} }

// find returns who a token of that pod was found to be within age.
func (p *proofs) find(pod string, token [sha256.Size]byte, age time.Duration) (Caller, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, f := range p.byPod[pod] {
		if f.token == token && now.Sub(f.at) < age && now.Before(f.expires) {
			return f.caller, true
		}
	}
	return Caller{}, false
}

// put keeps a proof in place of an older one of the same token, or of the pod's oldest.
// If there are too many pods, those of which there is none any more go, and otherwise any.
func (p *proofs) put(f proof, lives func(pod string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod := f.caller.PodUID
	if _, known := p.byPod[pod]; !known && len(p.byPod) >= maxProofs {
		p.shrinkLocked(lives)
	}
	kept := slices.DeleteFunc(p.byPod[pod], func(old proof) bool { return old.token == f.token })
	if len(kept) >= podProofs {
		kept = slices.Delete(kept, 0, len(kept)-podProofs+1)
	}
	p.byPod[pod] = append(kept, f)
}

func (p *proofs) shrinkLocked(lives func(pod string) bool) {
	for pod := range p.byPod {
		if !lives(pod) {
			delete(p.byPod, pod)
		}
	}
	for pod := range p.byPod {
		if len(p.byPod) < maxProofs {
			break
		}
		delete(p.byPod, pod)
	}
}
