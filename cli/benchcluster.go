// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/cli/speed"
	"github.com/culvert-mesh/culvert/cli/stage"
)

// cleanAtMost is how long a namespace may take to go.
const cleanAtMost = 2 * time.Minute

func (c *command) benchCluster() *cobra.Command {
	var plan speed.Plan
	s := stage.Stage{Wait: 3 * time.Minute}
	var rows, nodes []string
	var perRow time.Duration
	var svg, against string
	var sure, noCosts bool
	cmd := &cobra.Command{
		Use:   "cluster --yes",
		Short: "Measure a cluster between pods that are made for it, in the mesh and beside it",
		Long: `Measure a cluster: on one node and between two, with both pods in the mesh and with
neither; with --against istio, with both in Istio's ambient mesh, too, in a namespace that is
labelled for it and in which Culvert is off. It makes a namespace with six pods, or two with
nine, which are removed when it ends, however it ends; if it is killed, culvert bench clean
removes them, and they end by themselves soon after. It loads the two nodes and the network
between them, and asks the ztunnels of both what they used.

It needs the rights to create and delete namespaces, to create and list pods in one, and to
create pods/exec there, and an image with the program culvert, as deploy/images makes it.`,
		Args: cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	flags := cmd.Flags()
	flags.BoolVar(&sure, "yes", false, "go on: two nodes will be under load")
	flags.StringVar(&s.Namespace, "bench-namespace", "culvert-bench", "`namespace` to make and to delete")
	flags.StringVar(&s.Image, "image", "", "`image` with the program culvert (default beside the image of ztunnel)")
	flags.StringSliceVar(&nodes, "nodes", nil, "one `node` or two, the first with the clients (default the first two that have a ztunnel that is ready)")
	flags.StringSliceVar(&rows, "rows", []string{"bulk-1", "bulk-8", "request-1", "connect-1"}, "`rows` to measure: bulk, request or connect, and how many connections at once")
	flags.DurationVar(&perRow, "per-row", 30*time.Second, "`time` of a row, for all turns of all targets: 1s to 1h")
	flags.IntVar(&plan.Turns, "turns", 3, "`turns` of each target in a row: 1 to 100")
	flags.BoolVar(&noCosts, "no-costs", false, "do not ask ztunnels what they used: pods cannot reach port 15020 of nodes")
	flags.StringVar(&against, "against", "", "another `mesh` that is on the cluster, to measure beside: istio, in ambient mode")
	flags.StringVar(&svg, "svg", "", "`file` for a picture of the results")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		ctx := cmd.Context()
		if s.Istio = against == "istio"; against != "" && !s.Istio {
			return fmt.Errorf("--against %q: want istio", against)
		}
		cluster, err := c.from.cluster()
		if err != nil {
			return err
		}
		s.API, s.Costs = cluster.API, !noCosts
		s.Exec = func(ctx context.Context, namespace, pod, container string, command []string) ([]byte, error) {
			return fleet.Exec(ctx, cluster.API, namespace, pod, container, command)
		}
		if err := choose(ctx, &s, cluster, nodes); err != nil {
			return err
		}
		// Of as many targets as there will be: what is wrong is told before a pod is made.
		placeholders := make([]string, s.Targets())
		for i := range placeholders {
			placeholders[i] = fmt.Sprintf("%d=pod:1", i)
		}
		if err := planned(&plan, placeholders, rows, nil, perRow); err != nil {
			return err
		}
		if plan.Each < time.Second {
			return fmt.Errorf("--per-row %v is %v for each of %d turns of %d targets: want 1s at least", perRow, plan.Each, plan.Turns, len(placeholders))
		}
		s.Lasts = plan.Takes()
		if !sure {
			return hint(fmt.Errorf("this makes pods of %s in the namespace %s on %s, and loads these nodes for %v", s.Image, s.Namespace, named(s.Nodes), s.Lasts.Round(time.Second)), "--yes does it")
		}
		return c.onStage(ctx, &s, plan, out.value, svg)
	}
	return cmd
}

// onStage builds the stage, measures, and takes it away.
func (c *command) onStage(ctx context.Context, s *stage.Stage, plan speed.Plan, format, svg string) (err error) {
	fmt.Fprintf(c.Stderr, "culvert: making pods on %s\n", named(s.Nodes))
	targets, err := s.Build(ctx)
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanAtMost)
		defer cancel()
		if e := s.Remove(clean); e != nil {
			err = errors.Join(err, hint(e, "culvert bench clean --bench-namespace %s removes it", s.Namespace))
		}
	}()
	if err != nil {
		return err
	}
	plan.Targets, plan.Take = targets, s.Take
	plan.Tell = func(what string) { fmt.Fprintf(c.Stderr, "culvert: %s\n", printable(what)) }
	report, err := plan.Run(ctx)
	return errors.Join(c.tellSpeed(report, format, svg), err, fail(report.Failed()))
}

func named(nodes []stage.Node) string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return strings.Join(names, " and ")
}

// choose finds the nodes, and the image that belongs to that of ztunnel.
func choose(ctx context.Context, s *stage.Stage, cluster *fleet.Cluster, wanted []string) error {
	pods, err := cluster.API.Pods(ctx, cluster.Namespace, "app.kubernetes.io/name=ztunnel")
	if err != nil {
		return fmt.Errorf("list the pods of ztunnel in namespace %s: %w", cluster.Namespace, err)
	}
	found := map[string]stage.Node{}
	var ready []string
	for _, pod := range pods {
		if !fleet.Ready(pod) {
			continue
		}
		found[pod.Spec.NodeName] = stage.Node{Name: pod.Spec.NodeName, Address: pod.Status.HostIP}
		ready = append(ready, pod.Spec.NodeName)
		for _, container := range pod.Spec.Containers {
			if repository, rest, ok := cutLast(container.Image, "/ztunnel"); ok && s.Image == "" {
				s.Image = repository + "/culvert" + rest
			}
		}
	}
	slices.Sort(ready)
	if wanted == nil {
		wanted = ready[:min(2, len(ready))]
	}
	switch {
	case len(wanted) < 1 || len(wanted) > 2 || len(wanted) == 2 && wanted[0] == wanted[1]:
		return fmt.Errorf("%d nodes: want one or two that have a ztunnel that is ready, as --nodes a,b", len(wanted))
	case s.Image == "":
		return errors.New("the image of ztunnel does not say what that of culvert is called: give it by --image")
	}
	for _, name := range wanted {
		node, ok := found[name]
		if !ok {
			return fmt.Errorf("--nodes %s: no ztunnel is ready there", name)
		}
		s.Nodes = append(s.Nodes, node)
	}
	return nil
}

// cutLast cuts at the last sep that ends a name: what follows is a tag or a digest.
func cutLast(s, sep string) (before, after string, ok bool) {
	at := strings.LastIndex(s, sep)
	if at < 0 {
		return s, "", false
	}
	before, after = s[:at], s[at+len(sep):]
	if strings.HasPrefix(after, "@") {
		return s, "", false // the digest is ztunnel's
	}
	return before, after, after == "" || after[0] == ':'
}

func (c *command) benchClean() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove what a bench cluster that was killed has left",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().StringVar(&namespace, "bench-namespace", "culvert-bench", "`namespace` to delete, if bench cluster has made it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		api, err := kubeapi.Open(c.from.kubeconfig, c.from.context)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), cleanAtMost)
		defer cancel()
		var removed []string
		for _, name := range stage.Namespaces(namespace) {
			was, e := stage.Clean(ctx, api, name)
			if err = errors.Join(err, e); e == nil && was {
				removed = append(removed, name)
				fmt.Fprintf(c.Stderr, "culvert: removed the namespace %s\n", name)
			}
		}
		if err == nil && removed == nil {
			fmt.Fprintf(c.Stderr, "culvert: there is no namespace %s\n", namespace)
		}
		return err
	}
	return cmd
}
