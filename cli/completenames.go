// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// known is what one node knows of the whole mesh, or what files say of it: enough for names.
func (c *command) known(ctx context.Context, l line) fleet.Dump {
	value := func(flag string) string {
		if f := l.cmd.Flags().Lookup(flag); f != nil && f.Changed {
			return f.Value.String()
		}
		return ""
	}
	if where := (objects{dir: value("objects"), api: value("api-server") == "true"}); where.api || where.dir != "" && where.dir != "-" {
		where.rootNamespace = cmp.Or(value("root-namespace"), where.rootNamespace)
		held, err := c.readInForce(ctx, &where)
		if err != nil {
			return fleet.Dump{}
		}
		return fleet.Dump{Workloads: held.workloads, Policies: held.policies}
	}
	if path := value("dumps"); path != "" {
		nodes, _ := fleet.Files(path) // none if it is not there
		var all fleet.Dump
		for _, n := range nodes {
			all.Workloads, all.Services = append(all.Workloads, n.Dump.Workloads...), append(all.Services, n.Dump.Services...)
		}
		return all
	}
	source, err := c.from.fleet()
	if sockets, _ := l.cmd.Flags().GetStringSlice("ztunnel-socket"); len(sockets) > 0 {
		source, err = fleet.SocketsOf(sockets), nil
	}
	if err != nil {
		return fleet.Dump{}
	}
	targets, err := source.Ztunnels(ctx)
	if err != nil {
		return fleet.Dump{}
	}
	return fleet.First(ctx, targets)
}

// each is an offer of what is said of every workload.
func each(say func(w workload.Workload) []string) offer {
	return func(ctx context.Context, c *command, l line) (all []string) {
		for _, w := range c.known(ctx, l).Workloads {
			if !w.Terminated {
				all = append(all, say(w)...)
			}
		}
		return all
	}
}

var (
	namespaces  = each(func(w workload.Workload) []string { return []string{w.Namespace} })
	ends        = each(func(w workload.Workload) []string { return []string{w.Namespace, ownerOf(w)} })
	endsAndPods = each(func(w workload.Workload) []string { return []string{w.Namespace, ownerOf(w), w.String()} })
	sourcesOf   = each(func(w workload.Workload) []string { return append(identityOf(w), w.String()) })
	identities  = each(identityOf)

	accountNames = each(func(w workload.Workload) []string {
		if w.ServiceAccount == "" {
			return nil
		}
		return []string{w.ServiceAccount}
	})
)

func ownerOf(w workload.Workload) string { return w.Namespace + "/" + cmp.Or(w.Owner, w.Name) }

func identityOf(w workload.Workload) []string {
	if w.ID.IsZero() {
		return nil
	}
	return []string{w.ID.String()}
}

// accounts are ServiceAccounts, as namespace/name, or as IDs for whoever began one.
func accounts(ctx context.Context, c *command, l line) []string {
	if strings.HasPrefix(l.word, "spiffe:") {
		return identities(ctx, c, l)
	}
	return each(func(w workload.Workload) []string {
		if w.ServiceAccount == "" {
			return nil
		}
		return []string{w.Namespace + "/" + w.ServiceAccount}
	})(ctx, c, l)
}

// pods are named as why takes them: with the kind in front for whoever began so.
func pods(ctx context.Context, c *command, l line) (all []string) {
	for _, w := range c.known(ctx, l).Workloads {
		if !w.Terminated {
			all = append(all, w.String(), "pod/"+w.String())
		}
	}
	return ofKind(all, l.word)
}

// podsWithPorts have a number behind a colon for each port that they declare.
func podsWithPorts(ctx context.Context, c *command, l line) (all []string) {
	for _, w := range c.known(ctx, l).Workloads {
		if !w.Terminated {
			all = append(all, withPorts(w.String(), w.Declared)...)
		}
	}
	return all
}

// destinations are pods and Services, with each port that they have.
func destinations(ctx context.Context, c *command, l line) (all []string) {
	known := c.known(ctx, l)
	for _, w := range known.Workloads {
		if !w.Terminated {
			all = append(all, withPorts(w.String(), w.Declared)...)
			all = append(all, withPorts("pod/"+w.String(), w.Declared)...)
		}
	}
	for _, s := range known.Services {
		var ports []uint16
		for _, p := range s.Ports {
			ports = append(ports, p.Port)
		}
		name := s.Namespace + "/" + s.Name
		all = append(all, withPorts(name, ports)...)
		all = append(all, withPorts("svc/"+name, ports)...)
	}
	return ofKind(all, l.word)
}

func withPorts(name string, ports []uint16) (all []string) {
	if len(ports) == 0 {
		return []string{name}
	}
	for _, port := range ports {
		all = append(all, name+":"+strconv.Itoa(int(port)))
	}
	return all
}

// ofKind leaves out names with a kind in front, unless the word has one.
func ofKind(names []string, word string) []string {
	if strings.Count(word, "/") == 0 && word != "" && (strings.HasPrefix("pod/", word) || strings.HasPrefix("svc/", word)) {
		return names
	}
	return slices.DeleteFunc(names, func(name string) bool { return strings.Count(name, "/") == 2 && !strings.HasPrefix(word, name[:4]) })
}

// nodeNames are those of the nodes that have a ztunnel.
func nodeNames(ctx context.Context, c *command, l line) (all []string) {
	source, err := c.from.fleet()
	if err != nil {
		return nil
	}
	targets, err := source.Ztunnels(ctx)
	if err != nil {
		return nil
	}
	for _, t := range targets {
		if t.Pod == "" { // its name is an address, and nodes know the names
			return each(func(w workload.Workload) []string { return []string{w.Node} })(ctx, c, l)
		}
		all = append(all, t.Name)
	}
	return all
}

// policyNames are those in force, as KIND/NAMESPACE/NAME.
func policyNames(ctx context.Context, c *command, l line) (all []string) {
	in := c.known(ctx, l).Policies
	for _, p := range in.PeerAuthentications {
		all = append(all, "PeerAuthentication/"+p.Namespace+"/"+p.Name)
	}
	for _, p := range in.AuthorizationPolicies {
		all = append(all, "AuthorizationPolicy/"+p.Namespace+"/"+p.Name)
	}
	return all
}

// denied are the values of one kind in the CA's deny set.
func denied(kind deny.Kind) offer {
	return func(ctx context.Context, c *command, l line) (all []string) {
		file, _ := l.cmd.Flags().GetString("deny-file")
		place, err := c.denySet(ctx, file)
		if err != nil {
			return nil
		}
		text, there, err := place.read(ctx)
		if err != nil || !there {
			return nil
		}
		entries, _ := deny.Parse(text) // none of what is not understood
		for _, e := range entries {
			if e.Kind == kind {
				all = append(all, e.Value)
			}
		}
		return all
	}
}

// tokenIDs are those of join tokens, and of the processes that redeemed one.
func tokenIDs(ctx context.Context, c *command, l line) (all []string) {
	dir, _ := l.cmd.Flags().GetString("join-tokens")
	store, err := c.tokens(ctx, dir)
	if err != nil {
		return nil
	}
	records, _ := store.List(ctx)
	for _, r := range records {
		all = append(all, r.ID)
	}
	return all
}

// homes are the namespaces that a mesh's programs are in.
func homes(ctx context.Context, c *command, _ line) []string {
	cluster, err := c.from.cluster()
	if err != nil {
		return nil
	}
	found, _ := cluster.Homes(ctx) // whoever may not list pods types the name
	return found
}

// contexts are those of the kubeconfig.
func contexts(_ context.Context, c *command, _ line) []string {
	return kubeapi.Contexts(c.from.kubeconfig)
}
