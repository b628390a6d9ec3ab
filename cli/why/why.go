// SPDX-License-Identifier: Apache-2.0

// Package why walks a connection from its source to the app that it is for, by what the
// nodes of a mesh say, and finds where it ends.
//
// A step is ok only if something proves it. What nobody says is unknown, and is no guess.
package why

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// State is how it stands with a step.
type State string

// The states.
const (
	OK         State = "ok"
	Fault      State = "fault"       // here the connection ends
	Unknown    State = "unknown"     // nothing says whether it ends here
	NotReached State = "not reached" // it ends before
	NotNeeded  State = "not needed"  // this connection has no such step
)

// Step is one of the questions that a connection is asked on its way.
type Step struct {
	Step     string   `json:"step"`
	State    State    `json:"state"`
	Says     string   `json:"says,omitempty"`
	By       string   `json:"by,omitempty"`       // whose word that is
	Evidence []string `json:"evidence,omitempty"` // more that bears on it
	Change   string   `json:"change,omitempty"`   // of a fault: the object, and what of it
	Docs     string   `json:"docs,omitempty"`     // of a fault
}

// The steps, in the order in which a connection meets them.
const (
	StepSource        = "source"
	StepSourceSteered = "source-steered"
	StepDestination   = "destination"
	StepEndpoint      = "endpoint"
	StepSourceCert    = "source-certificate"
	StepDestSteered   = "destination-steered"
	StepTunnel        = "tunnel"
	StepDestCert      = "destination-certificate"
	StepNetworkPolicy = "network-policy"
	StepPolicy        = "policy"
	StepApp           = "app"
)

// Verdict is what becomes of the connection.
type Verdict string

// The verdicts.
const (
	Carried  Verdict = "carried"
	Refused  Verdict = "refused"
	NotKnown Verdict = "not known" // no step faults, and not all of them are proved
)

// Answer is a connection, step by step.
type Answer struct {
	Verdict     Verdict   `json:"verdict"`
	EndsAt      string    `json:"endsAt,omitempty"` // the step that faults
	AsOf        time.Time `json:"asOf,omitzero"`    // of files: when the oldest says that it was; zero: now, or none says it
	Source      string    `json:"source"`
	Destination string    `json:"destination"`
	Record      *Record   `json:"explains,omitempty"` // the record that was asked about
	Steps       []Step    `json:"steps"`
	Records     []Record  `json:"records"` // of connections between these ends that were refused, the youngest first
	Unanswered  []Silence `json:"unanswered"`

	// Nodes are the names of all nodes that a step may tell of: those that were asked, and
	// those on which a pod is.
	Nodes []string `json:"-"`
}

// Record is an access record, and the node that wrote it.
type Record struct {
	Node string `json:"node"`
	fleet.Refused
}

// Silence is a node that did not answer.
type Silence struct {
	Node    string `json:"node"`
	Problem string `json:"problem"`
}

// World is all that is known, and when.
type World struct {
	Nodes []fleet.Node // one at least has answered
	Now   time.Time
	// Probe has a node try something. nil: nothing is tried.
	Probe func(ctx context.Context, n *fleet.Node, q fleet.Question) (fleet.Proof, error)
	// CAs asks the replicas of the CA, for what they say of a node that lacks a
	// certificate. nil: nobody is asked.
	CAs func(ctx context.Context) []fleet.CA
}

// stale is the age from which evidence says it.
const stale = 15 * time.Second

// maxWalks is how many endpoints of a Service are walked to, and tried.
const maxWalks = 16

// maxUnproved is after how many endpoints that are not proved no more are tried: each may
// have taken three tries that nobody answered.
const maxUnproved = 3

// Explain walks from a source to a destination, each as Ends reads it. The error is of
// ends that mean nothing to anybody.
//
// Of a Service it walks to each endpoint: by what is known, and if none faults, with each
// tried. The answer is of the first that faults, else of one that is not proved.
func (w *World) Explain(ctx context.Context, from, to string) (Answer, error) {
	src, err := w.source(from)
	if err != nil {
		return Answer{}, err
	}
	dst, err := w.destination(src, to)
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	if ways := w.ways(src, dst); len(ways) > 1 {
		a = w.toEach(ctx, src, dst, ways)
	} else {
		a = w.walk(ctx, src, dst, nil)
	}
	a.Records, a.Unanswered, a.AsOf, a.Nodes = w.records(src, dst), w.silent(), w.asOf(), w.names()
	return a, nil
}

// names are those of all nodes that are known, sorted.
func (w *World) names() []string {
	all := map[string]bool{}
	for i := range w.Nodes {
		n := &w.Nodes[i]
		all[n.Name], all[n.Dump.Config.NodeName] = true, true
		for _, pod := range n.Dump.Workloads {
			all[pod.Node] = true
		}
	}
	delete(all, "")
	return slices.Sorted(maps.Keys(all))
}

// asOf is when the oldest file that answers for a node was taken.
func (w *World) asOf() (oldest time.Time) {
	for n := range w.answered {
		if !n.Taken.IsZero() && (oldest.IsZero() || n.Taken.Before(oldest)) {
			oldest = n.Taken
		}
	}
	return oldest
}

// toEach walks to the endpoints of a Service. What is known costs nothing, so that an
// endpoint that faults by it is found before any is tried.
func (w *World) toEach(ctx context.Context, src source, dst destination, ways []*way) Answer {
	still := *w
	still.Probe = nil
	walked := ways[:min(len(ways), maxWalks)]
	for _, way := range walked {
		if a := still.walk(ctx, src, dst, way); a.Verdict == Refused {
			return a
		}
	}
	var worst Answer
	unproved := 0
	for i, way := range walked {
		a := w.walk(ctx, src, dst, way)
		if a.Verdict == Refused {
			return a
		}
		if i == 0 || a.Verdict == NotKnown && worst.Verdict == Carried {
			worst = a
		}
		if a.Verdict == NotKnown {
			unproved++
		}
		if unproved == maxUnproved {
			return worst.among(i+1, len(ways))
		}
	}
	return worst.among(len(walked), len(ways))
}

// among says of an Answer for how many endpoints it stands: it proves nothing of those
// to which nobody walked.
func (a Answer) among(walked, of int) Answer {
	s := &a.Steps[stepAt(StepEndpoint)]
	if walked == of {
		*s = s.because(fmt.Sprintf("none of the %d endpoints faults", of))
		return a
	}
	if s.State == OK {
		s.State = Unknown
	}
	a.Verdict = NotKnown
	*s = s.because(fmt.Sprintf("none of %d endpoints faults, and %d more were not looked at: name a pod to ask for one", walked, of-walked))
	return a
}

// stepAt is where a step stands.
func stepAt(step string) int {
	for i, l := range looks {
		if l.step == step {
			return i
		}
	}
	return -1
}

// looks are the steps and who looks at them.
var looks = []struct {
	step string
	look func(*walk) Step
}{
	{StepSource, (*walk).theSource},
	{StepSourceSteered, (*walk).sourceSteered},
	{StepDestination, (*walk).theDestination},
	{StepEndpoint, (*walk).endpoint},
	{StepSourceCert, (*walk).sourceCertificate},
	{StepDestSteered, (*walk).destinationSteered},
	{StepTunnel, (*walk).tunnel},
	{StepDestCert, (*walk).destinationCertificate},
	{StepNetworkPolicy, (*walk).networkPolicy},
	{StepPolicy, (*walk).authorization},
	{StepApp, (*walk).app},
}

// walk goes from step to step until one faults.
func (w *World) walk(ctx context.Context, src source, dst destination, way *way) Answer {
	k := &walk{World: w, ctx: ctx, src: src, dst: dst, way: way}
	a := Answer{Verdict: Carried, Source: src.text, Destination: dst.text, Steps: []Step{}}
	for _, l := range looks {
		s := Step{State: NotReached}
		if a.EndsAt == "" {
			s = l.look(k)
		}
		s.Step = l.step
		switch s.State {
		case Fault:
			a.Verdict, a.EndsAt = Refused, l.step
			s.Docs = "docs/troubleshooting.md#why-" + l.step
		case Unknown:
			a.Verdict = NotKnown
		}
		a.Steps = append(a.Steps, s)
	}
	return a
}

func (w *World) silent() []Silence {
	all := []Silence{}
	for _, n := range w.Nodes {
		if n.Problem != "" {
			all = append(all, Silence{n.Name, n.Problem})
		}
	}
	return all
}

// Step constructors; those who look add whose word it is.

func ok(format string, args ...any) Step { return Step{State: OK, Says: fmt.Sprintf(format, args...)} }

func fault(change, format string, args ...any) Step {
	return Step{State: Fault, Says: fmt.Sprintf(format, args...), Change: change}
}

func unknown(format string, args ...any) Step {
	return Step{State: Unknown, Says: fmt.Sprintf(format, args...)}
}

func notNeeded(format string, args ...any) Step {
	return Step{State: NotNeeded, Says: fmt.Sprintf(format, args...)}
}

// by says whose word a step is, and how old it is if it is not of now.
func (s Step) by(w *World, n *fleet.Node) Step {
	s.By = n.Name
	switch age := w.Now.Sub(n.Taken); {
	case !n.File:
	case n.Taken.IsZero():
		s.By += ", when is not said"
	case age > stale:
		s.By += ", " + age.Round(time.Second).String() + " ago"
	}
	return s
}

func (s Step) because(evidence ...string) Step {
	s.Evidence = append(s.Evidence, slices.DeleteFunc(evidence, func(e string) bool { return e == "" })...)
	return s
}
