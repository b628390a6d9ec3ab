// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Node is what one node's ztunnel says.
type Node struct {
	Target
	Problem string // why there is no dump; empty: there is one
	Clock   Clock
	Dump    Dump
	File    bool      // it is read of a file, and is not of now
	Taken   time.Time // of a file: when the node said it; zero: an older ztunnel does not say

	asked string   // the name by which it was found: Name may be what it says itself
	again []string // the other names by which it was found; what they led to does not count
}

// Dump is what of a /config_dump is of use here. What an older ztunnel does not say
// is empty.
type Dump struct {
	Certificates []Held              `json:"certificates"`
	CA           Standing            `json:"ca"`
	Config       Config              `json:"config"`
	Policies     policy.Objects      `json:"policyObjects"`
	Workloads    []workload.Workload `json:"workloads"`
	Pods         map[string]Pod      `json:"workloadState"` // by UID
	Edges        []Edge              `json:"edges"`
	Following    *Following          `json:"bundle"`          // nil: an older ztunnel
	Denying      *Denying            `json:"denials"`         // nil: an older ztunnel, which denies nobody
	Network      *Network            `json:"networkPolicies"` // nil: an older ztunnel, which does not judge them
	Services     Services            `json:"services"`
	Mesh         *Mesh               `json:"mesh"`     // nil: an older ztunnel
	Foreign      *Foreign            `json:"foreign"`  // nil: an older ztunnel
	Steering     *Steering           `json:"steering"` // nil: an older ztunnel
	Host         *Host               `json:"host"`     // nil: an older ztunnel
	Version      string              `json:"version"`
	Time         time.Time           `json:"time"` // when it was asked; zero: an older ztunnel
}

// errOfIstio: Istio's ztunnel says less, and much of it under the same names.
var errOfIstio = errors.New("it is of Istio's ztunnel, not of Culvert's")

// UnmarshalJSON is part of json.Unmarshaler. An older ztunnel has the objects of its
// policies under the key where a younger one lists them as Istio's does.
func (d *Dump) UnmarshalJSON(data []byte) error {
	type plain Dump
	var older struct {
		Policies json.RawMessage `json:"policies"`
		Objects  json.RawMessage `json:"policyObjects"`
		Static   json.RawMessage `json:"staticConfig"` // Istio's alone
		Version  json.RawMessage `json:"version"`
	}
	if err := json.Unmarshal(data, &older); err != nil {
		return err
	}
	if older.Static != nil || bytes.HasPrefix(older.Version, []byte("{")) {
		return errOfIstio
	}
	if err := json.Unmarshal(data, (*plain)(d)); err != nil {
		return err
	}
	if older.Objects == nil && bytes.HasPrefix(older.Policies, []byte("{")) {
		return json.Unmarshal(older.Policies, &d.Policies)
	}
	return nil
}

// Network is the NetworkPolicies that a ztunnel judges by.
type Network struct {
	Policies []networkpolicy.Policy        `json:"policies"`
	Modes    map[string]networkpolicy.Mode `json:"modes"`    // of the namespaces that have some
	Blocking []string                      `json:"blocking"` // by which the pod network drops tunnels: namespace/name
	// Namespaces are the labels of all; nil: an older ztunnel does not say them.
	Namespaces map[string]map[string]string `json:"namespaces"`
}

// Said is how the node itself calls the state of an identity's certificate, as valid or
// overdue, and what its last attempt to renew it failed with. It is empty if no pod of
// the node shows it.
func (d Dump) Said(identity string) (word, problem string) {
	for _, pod := range d.Pods {
		if pod.Identity == identity && pod.Certificate != nil {
			return pod.Certificate.State, pod.Certificate.Error
		}
	}
	return "", ""
}

// Held is what ztunnel holds for one identity.
type Held struct {
	Identity string   `json:"identity"`
	State    string   `json:"state"` // Available, Initializing, or Unavailable: and why
	Chain    chain    `json:"certChain"`
	Roots    chain    `json:"rootCerts"`
	Renewal  *Renewal `json:"renewal"`
}

// Renewal is how it stands with the certificate that follows.
type Renewal struct {
	At      time.Time `json:"at"`      // when it is asked for
	Until   time.Time `json:"until"`   // how long the node goes on with the one it has; zero: an older ztunnel does not say
	Error   string    `json:"error"`   // of the last attempt; empty
	Overdue bool      `json:"overdue"` // it should have succeeded by now
}

// Leaf is the identity's certificate, or nil.
func (h Held) Leaf() *x509.Certificate {
	if len(h.Chain) == 0 {
		return nil
	}
	return h.Chain[0]
}

// Until is when the first of leaf, those above it and its root ends: from then on no
// peer accepts it. It is zero without a leaf.
func (h Held) Until() (until time.Time) {
	for _, cert := range h.Chain {
		until = sooner(until, cert.NotAfter)
	}
	if root := h.root(); root != nil {
		until = sooner(until, root.NotAfter)
	}
	return until
}

// UsedUntil is how long the node goes on with the certificate: by the clock skew of the
// mesh longer than Until, or not at all if no root vouches for it any more. It is zero
// without a leaf.
func (h Held) UsedUntil() time.Time {
	if len(h.Chain) == 0 || h.Renewal == nil || h.Renewal.Until.IsZero() {
		return h.Until()
	}
	return h.Renewal.Until
}

// root is the one that the chain leads to, of several the last to end, or nil.
func (h Held) root() (best *x509.Certificate) {
	if len(h.Chain) == 0 {
		return nil
	}
	top := h.Chain[len(h.Chain)-1]
	for _, root := range h.Roots {
		if (top.Equal(root) || top.CheckSignatureFrom(root) == nil) && (best == nil || root.NotAfter.After(best.NotAfter)) {
			best = root
		}
	}
	return best
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// Standing is what the CA last said to a node of itself.
type Standing struct {
	Ready   bool      `json:"ready"`
	Reason  string    `json:"reason"`
	Problem string    `json:"problem"`
	Since   time.Time `json:"since"`
}

// Config is how a ztunnel was started.
type Config struct {
	NodeName    string
	TrustDomain string
	CAAddress   string
	TTL         string // as a flag has it; empty: what the CA gives
	ClockSkew   string // as 1m0s
	MeshCIDRs   []netip.Prefix
	Cgroup      string
}

// Pod is one of the node's pods.
type Pod struct {
	State    string `json:"state"`
	Reason   string `json:"reason"`
	Identity string `json:"identity"`
	// Of an enrolled pod: the state of its identity's certificate, in ztunnel's words.
	Certificate *struct {
		State string `json:"state"`
		Error string `json:"error"`
	} `json:"certificate"`
	Sandbox struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"sandbox"`
	Connections Connections  `json:"connections"`
	Verified    time.Time    `json:"verified"` // when the kernel last said that it steers the pod; zero: it does not, or an older ztunnel
	Tunnels     []OpenTunnel `json:"tunnels"`
	Refused     []Refused    `json:"lastRefused"` // the youngest last
}

// Following is how a node knows the roots of its trust domain.
type Following struct {
	Generation uint64    `json:"generation"` // that the CA's stream said last; 0: none
	SHA256     string    `json:"sha256"`     // of all roots that it verifies by; see Bundle
	Roots      int       `json:"roots"`      // how many these are
	Heard      int       `json:"heard"`      // of them, those that no bundle has named
	Connected  bool      `json:"connected"`
	Since      time.Time `json:"since"`
	AgeSeconds float64   `json:"ageSeconds"` // for how long no stream was open
	Problem    string    `json:"problem"`
	Federated  []struct {
		TrustDomain string `json:"trustDomain"`
		Roots       int    `json:"roots"`
	} `json:"federated"` // the trust domains whose bundles it has
}

// Denying is how a node knows whom the CA denies.
type Denying struct {
	Generation uint64  `json:"generation"` // that a stream of the CA said last; 0: none
	Entries    int     `json:"entries"`
	Connected  int     `json:"connected"`  // streams
	AgeSeconds float64 `json:"ageSeconds"` // for how long none was open
	None       bool    `json:"none"`       // the CA has no deny set
	Problem    string  `json:"problem"`
}

// Bundle is a set of roots, as the CA numbers it.
type Bundle struct {
	Generation uint64     `json:"generation"` // 0: not numbered
	SHA256     string     `json:"sha256"`     // of the set: the order does not matter
	Roots      plainChain `json:"roots"`
}

func (b *Bundle) String() string {
	return fmt.Sprintf("generation %d, %d roots, sha256 %s", b.Generation, len(b.Roots), b.SHA256)
}

// chain reads certificates as ztunnel dumps them: PEM in base64.
type chain []*x509.Certificate

// UnmarshalJSON is part of json.Unmarshaler.
func (c *chain) UnmarshalJSON(data []byte) (err error) {
	*c, err = certificates(data, base64.StdEncoding.DecodeString)
	return err
}

// plainChain reads certificates as the CA dumps them: PEM.
type plainChain []*x509.Certificate

// UnmarshalJSON is part of json.Unmarshaler.
func (c *plainChain) UnmarshalJSON(data []byte) (err error) {
	*c, err = certificates(data, func(text string) ([]byte, error) { return []byte(text), nil })
	return err
}

func certificates(data []byte, decode func(string) ([]byte, error)) (all []*x509.Certificate, err error) {
	var dumped []struct {
		PEM string `json:"pem"`
	}
	if err := json.Unmarshal(data, &dumped); err != nil {
		return nil, err
	}
	for _, d := range dumped {
		text, err := decode(d.PEM)
		if err != nil {
			return nil, fmt.Errorf("a certificate of the dump: %v", err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, errors.New("a certificate of the dump is no PEM")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a certificate of the dump: %v", err)
		}
		all = append(all, cert)
	}
	return all, nil
}

// Nodes asks every ztunnel of a source.
func Nodes(ctx context.Context, source Source) ([]Node, error) {
	targets, err := source.Ztunnels(ctx)
	if err != nil {
		return nil, err
	}
	nodes := make([]Node, len(targets))
	each(ctx, targets, func(i int, t Target) { nodes[i] = t.node(ctx) })
	return withoutAgain(nodes), nil
}

// First asks some targets, and returns what the first of them says that answers.
func First(ctx context.Context, targets []Target) Dump {
	const some = 3
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	targets = targets[:min(len(targets), some)]
	answers := make(chan Node, len(targets))
	for _, t := range targets {
		go func() { answers <- t.node(ctx) }()
	}
	for range targets {
		if n := <-answers; n.Problem == "" {
			return n.Dump
		}
	}
	return Dump{}
}

// Ask asks a target for its dump.
func (t Target) Ask(ctx context.Context) Node { return t.node(ctx) }

func (t Target) node(ctx context.Context) Node {
	n := Node{Target: t, asked: t.Name}
	body, clock, err := t.get(ctx, ZtunnelAdmin, "/config_dump")
	if err == nil {
		if err = n.Dump.UnmarshalJSON(body); err != nil { // json.Unmarshal would read all of it twice more
			err = fmt.Errorf("its /config_dump is not understood: %v", err)
		}
	}
	if err != nil {
		n.Problem, n.Dump = err.Error(), Dump{}
		return n
	}
	n.Clock = clock
	if n.Pod == "" && n.Dump.Config.NodeName != "" {
		n.Name = n.Dump.Config.NodeName
	}
	return n
}
