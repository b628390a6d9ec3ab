// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/identity/rekey"
)

// CA is what one replica of the CA says.
type CA struct {
	Target
	Problem string // why it did not answer by TLS; empty: Chain is what it serves
	Chain   []*x509.Certificate
	Clock   Clock // zero where nothing but TLS answers

	State        *State // nil: an older CA, or its admin address does not answer
	StateProblem string
}

// Leaf is the replica's serving certificate, or nil.
func (c CA) Leaf() *x509.Certificate {
	if len(c.Chain) == 0 {
		return nil
	}
	return c.Chain[0]
}

// State is what of a CA's /config_dump is of use here. What an older CA does not say is
// empty.
type State struct {
	TrustDomain string `json:"trustDomain"`
	Store       struct {
		Where string `json:"where"`
	} `json:"store"`
	Bundle  Bundle        `json:"bundle"`
	Rekey   *rekey.Status `json:"rekey"`   // nil: an older CA
	DenySet *DenySet      `json:"denySet"` // nil: there is none
	Nodes   []Visit       `json:"nodes"`   // that asked lately

	Federation *Federations `json:"federation"` // nil: with nobody
	Ledger     *Ledger      `json:"ledger"`     // nil: none is kept, or an older CA
	Readiness  []struct {
		Name    string `json:"name"`
		Ready   bool   `json:"ready"`
		Problem string `json:"problem"`
	} `json:"readiness"`
	Issuance struct {
		TTLSeconds float64  `json:"ttlSeconds"` // of a leaf, unless a node asks for less
		DNSNames   []string `json:"dnsNames"`
	} `json:"issuance"`
}

// DenySet is whom a replica denies.
type DenySet struct {
	Generation uint64 `json:"generation"` // 0: it is not known yet
	Entries    int    `json:"entries"`
	Problem    string `json:"problem"` // why it is not what was written last
}

// Ledger is that of a replica.
type Ledger struct {
	Failing bool    `json:"failing"` // lines cannot be written
	Anchor  *Anchor `json:"anchor"`  // nil: its checkpoint is on its own disk alone
}

// Anchor is how the checkpoint that is kept outside of a ledger's disk stands to the ledger.
type Anchor struct {
	State      string   `json:"state"` // waiting, held or lost
	Seq        uint64   `json:"seq"`
	AgeSeconds float64  `json:"ageSeconds"` // since it was seen to name all that was on disk
	Lost       []string `json:"lost"`       // what of the ledger is, a sentence each
	Problem    string   `json:"problem"`    // of the last look
}

// Federations are the trust domains that a replica is federated with.
type Federations struct {
	Domains []Federation `json:"domains"`
	Problem string       `json:"problem"` // why they are not what was written last
}

// Federation is how a replica stands with another trust domain.
type Federation struct {
	TrustDomain    string    `json:"trustDomain"`
	URL            string    `json:"url"`
	Profile        string    `json:"profile"`
	Sequence       uint64    `json:"sequence,omitempty"`
	Roots          int       `json:"roots"` // 0: no bundle came yet
	Fetched        time.Time `json:"fetched,omitzero"`
	AgeSeconds     float64   `json:"ageSeconds"`
	RefreshSeconds float64   `json:"refreshSeconds"`
	Failures       uint64    `json:"failures"`
	Problem        string    `json:"problem,omitempty"` // of the last attempt
	Dropped        int       `json:"bundleFileDropped"` // roots of bundleFile that the bundle has no more
}

// Visit is what a node said last to one replica.
type Visit struct {
	Node        string    `json:"name"`
	LastRequest time.Time `json:"lastRequest"`
	LastResult  string    `json:"lastResult"`
}

// CAs asks every replica of a source.
func CAs(ctx context.Context, source Source) ([]CA, error) {
	targets, err := source.CAs(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]CA, len(targets))
	each(ctx, targets, func(i int, t Target) { all[i] = t.ca(ctx) })
	return all, nil
}

func (t Target) ca(ctx context.Context) CA {
	c := CA{Target: t}
	chain, err := t.served(ctx, CARequests, "")
	if err != nil {
		c.Problem = err.Error()
	}
	c.Chain = chain
	_, c.Clock, _ = t.get(ctx, CAMetrics, "/healthz/ready") // one that is not ready has a clock, too
	body, clock, err := t.get(ctx, CAAdmin, "/config_dump")
	if err == nil {
		c.State, c.Clock = &State{}, clock
		if err = json.Unmarshal(body, c.State); err != nil {
			c.State, err = nil, fmt.Errorf("its /config_dump is not understood: %v", err)
		}
	}
	if err != nil {
		c.StateProblem = err.Error()
	}
	return c
}

// served returns the certificates that a port presents to whoever asks. They are
// material to look at: nothing here believes them.
func (t Target) served(ctx context.Context, port int, name string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	raw, err := t.dial(ctx, port)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	return presented(ctx, raw, name)
}
