// SPDX-License-Identifier: Apache-2.0

// Package check says whether a mesh's identity is as it should be: a list of questions
// with stable names, each answered by what was found, and each with what to do.
//
// A question that could not be asked is Skipped, and says why: it is no success.
package check

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// State is an answer.
type State string

// States.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, and will not go on to
	Failed  State = "failed"
	Skipped State = "skipped" // it could not be asked
)

// Result is one question with its answer.
type Result struct {
	ID       string `json:"id"` // stable
	Category string `json:"category"`
	Title    string `json:"title"`
	State    State  `json:"state"`
	Detail   string `json:"detail,omitempty"` // what was found, if not OK
	Hint     string `json:"hint,omitempty"`   // what to do, if not OK
	Docs     string `json:"docs,omitempty"`
}

// Soon is how long certificates of the CA should hold yet, unless another time is asked
// for.
const Soon = 60 * 24 * time.Hour

// World is what was found. Its zero parts were not.
type World struct {
	Now        time.Time
	FailWithin time.Duration // certificates of the CA that end within it fail; zero: they warn within Soon

	Where        string // the CA's place
	Files        ca.Files
	FilesProblem string // why its files are not known

	PassphraseFile string // that opens private keys among Files which are encrypted; none

	Roots        []*x509.Certificate // that are published to nodes
	RootsProblem string

	Nodes  []fleet.Node
	CAs    []fleet.CA
	Served []Served // by a handshake with pods; nil: not asked for

	Cluster *Cluster // nil: no Kubernetes
}

// Cluster is what Kubernetes says of the mesh's programs.
type Cluster struct {
	Namespace string
	Secret    string       // that the CA is in
	Pods      []corev1.Pod // of the namespace
	Version   string
	Foreign   []Foreign // what else looks after connections of the cluster's pods
	Problem   string    // why that is not known
	Rights    []Right   // that --pre asks for; nil: not asked for
}

// Foreign is a part of another mesh, or of a CNI that is set against chained plugins.
type Foreign struct {
	What   string // as "DaemonSet istio-system/istio-cni-node"
	Object string // to change
	Breaks bool   // Culvert cannot work beside it; else it is to be known
	Why    string
}

// Right is what an installation needs to do.
type Right struct {
	What    string // as "create clusterroles.rbac.authorization.k8s.io"
	Allowed bool
	Problem string // why it is not known
}

// Served is what an address of a pod presented in a handshake.
type Served struct {
	Node, Identity, Address string
	Leaf                    *x509.Certificate
	Problem                 string
}

// rule is a question.
type rule struct {
	id, category, title, hint string
	ask                       func(*World) answer
}

// answer is what a question found.
type answer struct {
	state State
	found []string
}

func skipped(format string, args ...any) answer {
	return answer{Skipped, []string{fmt.Sprintf(format, args...)}}
}

const noNode = "no node answered"

// ofNodes asks only if a node answered: what none of them shows is not proven.
func ofNodes(ask func(*World) answer) func(*World) answer {
	return func(w *World) answer {
		if len(w.answered()) == 0 {
			return skipped(noNode)
		}
		return ask(w)
	}
}

// ofReplicas asks only if a replica of the CA presented a certificate.
func ofReplicas(ask func(*World) answer) func(*World) answer {
	return func(w *World) answer {
		if !slices.ContainsFunc(w.CAs, func(ca fleet.CA) bool { return ca.Leaf() != nil }) {
			return skipped("no replica of the CA was reached")
		}
		return ask(w)
	}
}

// warn and fail note something. What failed outweighs what warns.
func (a *answer) warn(format string, args ...any) { a.note(Warning, format, args...) }
func (a *answer) fail(format string, args ...any) { a.note(Failed, format, args...) }

func (a *answer) note(state State, format string, args ...any) {
	if a.state != Failed {
		a.state = state
	}
	a.found = append(a.found, fmt.Sprintf(format, args...))
}

func (a answer) or(state State) answer {
	if a.state == "" {
		a.state = state
	}
	return a
}

// most is how many findings one answer shows.
const most = 6

func (a answer) text() string {
	if len(a.found) <= most {
		return strings.Join(a.found, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(a.found[:most], "; "), len(a.found)-most)
}

// Docs is where each question is explained, by its ID.
const Docs = "docs/checks.md"

// Run asks all questions that what was found allows to ask. Categories, if there are
// any, select.
func Run(w *World, categories ...string) (all []Result) {
	for _, r := range rules() {
		if len(categories) > 0 && !slices.Contains(categories, r.category) {
			continue
		}
		a := r.ask(w).or(OK)
		result := Result{ID: r.id, Category: r.category, Title: r.title, State: a.state, Detail: a.text()}
		if a.state != OK {
			result.Hint, result.Docs = r.hint, Docs+"#"+r.id
		}
		all = append(all, result)
	}
	return all
}

// Categories are the names of those that there are, in the order of their questions.
func Categories() (all []string) {
	for _, r := range rules() {
		if !slices.Contains(all, r.category) {
			all = append(all, r.category)
		}
	}
	return all
}

// Unproven is the first category of which no question could be asked because no node
// answered, or empty.
func Unproven(results []Result) string {
	asked := map[string]bool{}
	for _, r := range results {
		asked[r.Category] = asked[r.Category] || r.State != Skipped
	}
	for _, r := range results {
		if r.Detail == noNode && !asked[r.Category] {
			return r.Category
		}
	}
	return ""
}

// Categories, in the order of what depends on what.
const (
	CategoryPre     = "pre-install"
	CategoryCA      = "ca-config"
	CategoryRoots   = "roots"
	CategoryIssuer  = "issuer"
	CategoryServing = "serving"
	CategoryDomain  = "trust-domain"
	CategoryBundle  = "bundle"
	CategoryLeaves  = "leaves"
	CategoryToken   = "token"
	CategoryClock   = "clock"
	CategoryHA      = "high-availability"
	CategoryLedger  = "ledger"
	CategoryNode    = "node"
	CategoryData    = "data-plane"
	CategoryEnroll  = "enrollment"
	CategoryPolicy  = "policy"
	CategoryVersion = "version"
)

func rules() []rule {
	return slices.Concat(preRules, caRules, rootRules, issuerRules, servingRules, domainRules, bundleRules, federationRules, ledgerRules, leafRules, tokenRules, clockRules, haRules,
		nodeRules, dataRules, enrollRules, policyRules, versionRules)
}

// name is a certificate for people.
func name(cert *x509.Certificate) string {
	if cert.Subject.CommonName != "" {
		return cert.Subject.CommonName
	}
	return cert.Subject.String()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// long is a duration in days, or smaller.
func long(d time.Duration) string {
	if d.Abs() >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.Round(time.Second).String()
}
