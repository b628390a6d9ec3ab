// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/check"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/cli/progress"
)

// asking is what check is to look at, and how it ends.
type asking struct {
	pre, proxy, strict bool
	wait               lifetime
	failWithin         lifetime
	categories         []string
	passphrase         string
}

func (c *command) check() *cobra.Command {
	var a asking
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the mesh: CA, certificates, nodes, data plane, enrollment, policies",
		Long: `check asks some forty questions about the CA, its certificates, every node, its kernel and
clock, the pods of the mesh and its policies, and says of each that is not answered well what
was found and what to do. Questions have stable names. What could not be asked is skipped,
with the reason.

--pre asks instead whether Culvert can be installed. --proxy also begins handshakes with
pods, to compare what they present with what their node holds: it needs a machine that
reaches pods. --wait repeats until nothing fails.

The exit code is 2 if something fails, or if nothing could be asked of a category because no
node answered, and 1 with --strict if something warns.`,
		Example: "  culvert check --fail-within 30d\n  culvert check --pre\n  culvert check --wait 2m -o short",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json", "short")
	flags := cmd.Flags()
	flags.BoolVar(&a.pre, "pre", false, "before an installation: may it be made here?")
	flags.BoolVar(&a.proxy, "proxy", false, "handshakes with pods, too")
	flags.BoolVar(&a.strict, "strict", false, "exit with 1 if something warns")
	flags.Var(&a.wait, "wait", "`time` to go on until nothing fails")
	flags.Var(&a.failWithin, "fail-within", "certificates of the CA that end within this `duration` fail, as 30d (default: warn within 60d)")
	flags.StringSliceVar(&a.categories, "category", nil, "comma-separated `names` of categories to ask about alone")
	caPassphraseFlag(cmd, &a.passphrase)
	cmd.MarkFlagsMutuallyExclusive("pre", "proxy")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, name := range a.categories {
			if there := check.Categories(); !slices.Contains(there, name) {
				return fmt.Errorf("--category %q: want %s", name, or(there))
			}
		}
		results, err := c.asked(cmd.Context(), a)
		if err != nil {
			return err
		}
		worst := worst(results)
		end := fail(worst == check.Failed)
		if worst == check.Warning && a.strict {
			end = &ended{exitWarnings}
		}
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"checks": results, "ok": worst != check.Failed}), end)
		}
		sayChecks(c.Stdout, results, out.value == "short")
		if category := check.Unproven(results); category != "" {
			fmt.Fprintf(c.Stdout, "nothing is proven of %s: no node answered\n", category)
		}
		return end
	}
	return cmd
}

// asked asks until nothing fails or time is up.
func (c *command) asked(ctx context.Context, a asking) (results []check.Result, err error) {
	until := time.Now().Add(time.Duration(a.wait))
	var work *progress.Work
	if a.wait > 0 {
		work = c.working("waits until nothing fails", 0, time.Duration(a.wait))
		defer work.End()
		defer func(still bool) { c.still = still }(c.still)
		c.still = true
	}
	for {
		w, err := c.world(ctx, a)
		if err == nil {
			categories := a.categories
			if a.pre {
				categories = []string{check.CategoryPre}
			}
			results = check.Run(w, categories...)
		}
		if err == nil && worst(results) != check.Failed || !time.Now().Before(until) {
			return results, err
		}
		work.Part(failing(results, err))
		select {
		case <-ctx.Done():
			return results, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// failing is what keeps the wait from its end.
func failing(results []check.Result, err error) string {
	if err != nil {
		return printable(err.Error())
	}
	var all []string
	for _, r := range results {
		if r.State == check.Failed {
			all = append(all, r.ID)
		}
	}
	return strings.Join(all, ", ")
}

// worst is how bad it is. That no node answered is no success of what only nodes show.
func worst(results []check.Result) check.State {
	if check.Unproven(results) != "" {
		return check.Failed
	}
	for _, state := range []check.State{check.Failed, check.Warning} {
		if slices.ContainsFunc(results, func(r check.Result) bool { return r.State == state }) {
			return state
		}
	}
	return check.OK
}

// world finds what the questions are about.
func (c *command) world(ctx context.Context, a asking) (*check.World, error) {
	w := &check.World{Now: c.Now(), FailWithin: time.Duration(a.failWithin), PassphraseFile: a.passphrase}
	if err := c.kubernetes(ctx, a, w); err != nil || a.pre {
		return w, err
	}
	m, err := c.mesh(ctx)
	if err != nil {
		return nil, err
	}
	w.Nodes, w.CAs, w.Roots = m.nodes, m.cas, m.published()
	for _, problem := range m.problems {
		w.RootsProblem = problem
	}
	keep, _, err := c.from.keep(ctx)
	if err != nil {
		w.FilesProblem = err.Error()
	} else if w.Where = keep.String(); true {
		if w.Files, err = keep.Read(ctx); err != nil {
			w.FilesProblem = keep.String() + ": " + err.Error()
		}
	}
	if a.proxy {
		w.Served = served(ctx, m.nodes)
	}
	return w, nil
}

// kubernetes asks the API server, if there is one.
func (c *command) kubernetes(ctx context.Context, a asking, w *check.World) error {
	if err := c.from.check(); err != nil {
		return err
	}
	if c.from.machine() {
		if a.pre {
			return errors.New("--pre is for a mesh on Kubernetes")
		}
		return nil
	}
	cluster, err := c.from.cluster()
	if err != nil {
		return err
	}
	w.Cluster = &check.Cluster{Namespace: c.from.namespace, Secret: c.from.secret(ctx, cluster)}
	if w.Cluster.Version, err = cluster.API.Version(ctx); err != nil {
		return fmt.Errorf("ask the API server: %w", err)
	}
	if w.Cluster.Foreign, err = foreign(ctx, cluster.API); err != nil {
		w.Cluster.Problem = err.Error()
	}
	if a.pre {
		w.Cluster.Rights = rights(ctx, cluster, c.from.namespace)
		return nil
	}
	w.Cluster.Pods, err = cluster.API.Pods(ctx, c.from.namespace, "")
	return err
}

// What an installation by the chart creates, as RESOURCE.GROUP.
var (
	ofNamespace = []string{
		"serviceaccounts", "services", "configmaps", "secrets", "deployments.apps", "daemonsets.apps", "poddisruptionbudgets.policy",
		"roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io",
	}
	ofCluster = []string{
		"namespaces", "clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io",
		"validatingadmissionpolicies.admissionregistration.k8s.io", "validatingadmissionpolicybindings.admissionregistration.k8s.io",
		"customresourcedefinitions.apiextensions.k8s.io",
	}
)

// rights are those that an installation by the chart needs.
func rights(ctx context.Context, cluster *fleet.Cluster, namespace string) (all []check.Right) {
	ask := func(namespace string, resources []string) {
		for _, resource := range resources {
			name, group, _ := strings.Cut(resource, ".")
			right := check.Right{What: "create " + resource}
			var err error
			if right.Allowed, err = cluster.API.MayCreate(ctx, kubeapi.Resource{Namespace: namespace, Group: group, Name: name}); err != nil {
				right.Problem = err.Error()
			}
			all = append(all, right)
		}
	}
	ask("", ofCluster)
	ask(namespace, ofNamespace)
	return all
}

// served begins a handshake with one pod of each identity that nodes hold.
func served(ctx context.Context, nodes []fleet.Node) []check.Served {
	all := []check.Served{}
	for _, n := range nodes {
		for _, h := range n.Dump.Certificates {
			address, ok := n.Dump.Tunnel(h.Identity)
			if !ok || h.Leaf() == nil {
				continue
			}
			s := check.Served{Node: n.Name, Identity: h.Identity, Address: address}
			leaf, err := fleet.Presented(ctx, address)
			s.Leaf = leaf
			if err != nil {
				s.Problem = err.Error()
			}
			all = append(all, s)
		}
	}
	return all
}

var marks = map[check.State]string{check.OK: "√", check.Warning: "‼", check.Failed: "×", check.Skipped: "-"}

// sayChecks prints what people read; short leaves out what is well.
func sayChecks(w io.Writer, results []check.Result, short bool) {
	category, counts := "", map[check.State]int{}
	for _, r := range results {
		counts[r.State]++
		if short && (r.State == check.OK || r.State == check.Skipped) {
			continue
		}
		if r.Category != category {
			if category != "" {
				fmt.Fprintln(w)
			}
			category = r.Category
			fmt.Fprintln(w, category)
		}
		fmt.Fprintf(w, "%s %s: %s\n", marks[r.State], r.ID, r.Title)
		if r.Detail != "" {
			fmt.Fprintf(w, "    %s\n", printable(r.Detail))
		}
		if r.State == check.Warning || r.State == check.Failed {
			fmt.Fprintf(w, "    hint: %s\n    see %s\n", r.Hint, r.Docs)
		}
	}
	if category != "" {
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%d ok, %d warnings, %d failed, %d skipped\n", counts[check.OK], counts[check.Warning], counts[check.Failed], counts[check.Skipped])
}
