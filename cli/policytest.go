// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/records"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
)

func (c *command) policyTest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test -f FILE --from FILE",
		Short: "Try policies on recorded connections: who would be refused, who let in",
		Long: `test asks about each connection of ztunnel's access records (JSON lines, of the arriving
side) twice: the policies that are in force, and these with the objects of -f in the place of
those of their names, and without those of --delete. It shows whose connections would be newly
refused or newly allowed. Records that cannot be judged are counted, and it says why. What
the NetworkPolicies in force refuse, no change of these policies lets in.

Every node that answers is asked; of a connection the policies of its pod's node decide.

The exit code is 1 if something is newly refused or newly allowed; --fail-on narrows that. It
is 2 if no record could be judged.`,
		Example: `  kubectl logs -n culvert-system -l app.kubernetes.io/name=ztunnel --tail=-1 > records.jsonl
  culvert policy test -f new.yaml --from records.jsonl`,
		Args: cobra.NoArgs,
	}
	var change, from string
	var deleted []string
	var where objects
	where.define(cmd, "")
	where.network = true
	flags := cmd.Flags()
	flags.StringVarP(&change, "filename", "f", "", "`file` or directory of the policies to try, or - for standard input")
	flags.StringSliceVar(&deleted, "delete", nil, "`policies` to try without, as AuthorizationPolicy/shop/db")
	defineRecords(cmd, &from)
	failOn := &format{value: "any", kinds: []string{"any", "refused", "allowed", "none"}}
	flags.Var(failOn, "fail-on", "which `change` is exit code 1: "+or(failOn.kinds))
	_ = cmd.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions(failOn.kinds, cobra.ShellCompDirectiveNoFileComp)) // it was just defined
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if change == "" && len(deleted) == 0 {
			return errors.New("-f is required: which policies shall be tried?")
		}
		held, err := c.inForce(cmd, &where)
		if err != nil {
			return err
		}
		tried := trial{deleted: deleted}
		if !flags.Changed("objects") {
			tried.created = c.Now() // else as in a directory
		}
		if tried.objects, err = c.readTrial(change); err != nil {
			return err
		}
		views, err := viewsOf(held, tried.in)
		if err != nil {
			return err
		}
		if err := tried.unused(); err != nil {
			return err
		}
		q := records.Question{Views: views}
		found, err := c.compare(q, from)
		if err != nil {
			return err
		}
		failed := failOn.value == "any" && found.Refused.Connections+found.Allowed.Connections > 0 ||
			failOn.value == "refused" && found.Refused.Connections > 0 || failOn.value == "allowed" && found.Allowed.Connections > 0
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, found), warn(failed))
		}
		fmt.Fprintf(c.Stdout, "%d connections: %d newly refused, %d newly allowed, %d unchanged\n",
			found.Judged, found.Refused.Connections, found.Allowed.Connections, found.Unchanged.Connections)
		err = printEdges(c.Stdout, []changedEdges{{"refused", found.Refused}, {"allowed", found.Allowed}})
		printNotJudged(c.Stdout, found)
		return errors.Join(err, warn(failed))
	}
	return cmd
}

// warn is nil, or an end with exit code 1, after all has been said.
func warn(found bool) error {
	if !found {
		return nil
	}
	return &ended{exitWarnings}
}

func defineRecords(cmd *cobra.Command, from *string) {
	cmd.Flags().StringVar(from, "from", "", "`file` of access records as ztunnel writes them in JSON, or - for standard input")
}

// compare reads records, and makes sure that there is an answer.
func (c *command) compare(q records.Question, from string) (*records.Comparison, error) {
	in := c.Stdin
	switch from {
	case "":
		return nil, hint(errors.New("--from is required: which records?"), "ztunnel's log in JSON, as kubectl logs prints it")
	case "-":
	default:
		f, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("--from: %v", err)
		}
		defer f.Close()
		in = f
	}
	found, err := q.Compare(in)
	if err != nil {
		return nil, fmt.Errorf("--from %s: %v", from, err)
	}
	if found.Judged == 0 {
		var why strings.Builder
		printNotJudged(&why, found)
		return nil, fmt.Errorf("--from %s: no record of a connection that arrived at these pods could be judged\n%s", from, why.String())
	}
	return found, nil
}

// trial is a change of policies.
type trial struct {
	objects []source.Object // PeerAuthentications and AuthorizationPolicies
	deleted []string
	created time.Time // of one that is new

	used map[string]bool // of deleted
}

// readTrial reads the policies of a file, a directory or standard input.
func (c *command) readTrial(from string) (all []source.Object, err error) {
	if from == "" {
		return nil, nil
	}
	var text file.Text
	if err := c.readObjects(from, &text); err != nil {
		return nil, fmt.Errorf("-f: %v", err)
	}
	if err := understood(text); err != nil {
		return nil, err
	}
	if len(text.Objects) == 0 {
		return nil, fmt.Errorf("-f %s: no policy is in it", from)
	}
	for _, o := range text.Objects {
		switch o.Object.(type) {
		case *source.PeerAuthentication, *source.AuthorizationPolicy:
			all = append(all, o.Object)
		default:
			return nil, fmt.Errorf("-f %s: %s %s: only a PeerAuthentication or an AuthorizationPolicy can be tried", from, source.KindOf(o.Object), o.GetName())
		}
	}
	return all, nil
}

// in returns policies with the trial's in the place of those of their names. One of an API
// server keeps the age that precedence goes by.
func (t *trial) in(before policy.Objects) (policy.Objects, error) {
	out := policy.Objects{RootNamespace: before.RootNamespace, PeerAuthentications: slices.Clone(before.PeerAuthentications),
		AuthorizationPolicies: slices.Clone(before.AuthorizationPolicies)}
	for _, text := range t.deleted {
		if take(&out, text) {
			if t.used == nil {
				t.used = map[string]bool{}
			}
			t.used[text] = true
		}
	}
	for _, o := range t.objects {
		switch o := o.(type) {
		case *source.PeerAuthentication:
			p, err := o.Policy()
			if err != nil {
				return out, err
			}
			out.PeerAuthentications = place(out.PeerAuthentications, p, peerObject, t.created)
		case *source.AuthorizationPolicy:
			p, err := o.Policy()
			if err != nil {
				return out, err
			}
			out.AuthorizationPolicies = place(out.AuthorizationPolicies, p, authzObject, t.created)
		}
	}
	return out, nil
}

// unused refuses what nobody has who was asked.
func (t *trial) unused() error {
	for _, text := range t.deleted {
		if !t.used[text] {
			return fmt.Errorf("--delete %s: no such policy is in force; want KIND/NAMESPACE/NAME", text)
		}
	}
	return nil
}

// viewsOf asks each that answered what it would go by after a change.
func viewsOf(held []inForce, change func(policy.Objects) (policy.Objects, error)) (views []records.View, err error) {
	for _, f := range held {
		v := records.View{Pods: f.workloads, Before: f.policies, Network: f.network.set()}
		if f.node {
			v.Node = f.by
		}
		if v.After, err = change(f.policies); err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

func peerObject(p *policy.PeerAuthentication) *policy.Object   { return &p.Object }
func authzObject(p *policy.AuthorizationPolicy) *policy.Object { return &p.Object }

// place puts p in the place of the one of its name, or adds it as one that is new.
func place[P any](all []P, p P, of func(*P) *policy.Object, created time.Time) []P {
	o := of(&p)
	for i := range all {
		if old := of(&all[i]); old.Namespace == o.Namespace && old.Name == o.Name {
			o.Created = old.Created
			all[i] = p
			return all
		}
	}
	if !created.IsZero() {
		o.Created = created
	}
	return append(all, p)
}

// take takes out the policy that text names.
func take(o *policy.Objects, text string) bool {
	before := len(o.PeerAuthentications) + len(o.AuthorizationPolicies)
	o.PeerAuthentications = slices.DeleteFunc(o.PeerAuthentications, func(p policy.PeerAuthentication) bool {
		return text == "PeerAuthentication/"+p.Namespace+"/"+p.Name
	})
	o.AuthorizationPolicies = slices.DeleteFunc(o.AuthorizationPolicies, func(p policy.AuthorizationPolicy) bool {
		return text == "AuthorizationPolicy/"+p.Namespace+"/"+p.Name
	})
	return len(o.PeerAuthentications)+len(o.AuthorizationPolicies) < before
}

// changedEdges are edges by what becomes of them.
type changedEdges struct {
	word  string
	edges records.Edges
}

func printEdges(w io.Writer, all []changedEdges) error {
	var rows, notes [][]string
	for _, c := range all {
		for _, e := range c.edges.Edges {
			rows = append(rows, []string{c.word, sourceOf(e), e.Destination, count(int(e.Port)), count(int(e.Connections)), stamp(e.Last)})
			notes = append(notes, by(e))
		}
		if c.edges.Others > 0 {
			rows, notes = append(rows, []string{c.word, "others", "", "", count(int(c.edges.Others)), ""}), append(notes, nil)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return tableWithNotes(w, "CHANGE|SOURCE|DESTINATION|PORT|COUNT|LAST", rows, notes)
}

// by says which object refuses an edge.
func by(e records.Edge) []string {
	if e.By == "" {
		return nil
	}
	return []string{"by " + e.By}
}

// sourceOf is an identity without what all have in common, or an address with the pod that
// the record has there.
func sourceOf(e records.Edge) string {
	if e.Address == "" {
		return strings.TrimPrefix(e.Source, "spiffe://")
	}
	if e.Workload == "" {
		return e.Address
	}
	return e.Address + " " + e.Workload
}

func printNotJudged(w io.Writer, found *records.Comparison) {
	if found.Otherwise > 0 {
		fmt.Fprintf(w, "\n%d of them ended otherwise than these policies say: other policies were in force\n", found.Otherwise)
	}
	if len(found.NotJudged) == 0 {
		return
	}
	fmt.Fprintln(w, "\nnot judged:")
	for _, why := range slices.Sorted(maps.Keys(found.NotJudged)) {
		fmt.Fprintf(w, "  %d %s\n", found.NotJudged[why], why)
	}
}
