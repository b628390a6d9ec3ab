// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// changed are the keys of what is in one of both alone, or differs in what a watcher
// wants to know.
func changed(before, now map[string]held) []string {
	keys := map[string]bool{}
	for key, h := range now {
		old, known := before[key]
		if !known || old.Serial != h.Serial || old.State != h.State || old.Error != h.Error {
			keys[key] = true
		}
	}
	for key := range before {
		if _, there := now[key]; !there {
			keys[key] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// entry is an identity on one node: what SPIRE calls a registration entry, though
// nobody registered it.
type entry struct {
	Identity  string   `json:"identity"`
	Node      string   `json:"node"` // the parent: which node may have it
	Pods      []podRef `json:"pods"`
	TTL       seconds  `json:"ttlSeconds"`
	Serial    string   `json:"serial,omitempty"`
	Issuer    string   `json:"issuer,omitempty"`
	DNSNames  []string `json:"dnsNames"`
	Selectors []string `json:"selectors"`
}

type podRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	State     string `json:"state"`
}

func (c *command) identities() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "identities",
		Short: "Show which identities are where, and for which pods",
		Long: `identities shows, of every node, the identities that it holds: for which pods, with
which lifetime, serial number and issuer. Nobody registers an identity: it is that of the
pods' ServiceAccount, and the CA gives it to the nodes on which such pods run.`,
		Example: "  culvert identities --ns shop",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	s.define(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		rows := c.entries(nodes, &s)
		silent := unanswered(nodes, s.nodes)
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"identities": nonNil(rows), "unanswered": nonNil(silent)}), fail(len(silent) > 0))
		}
		var lines [][]string
		for _, e := range rows {
			var pods []string
			for _, p := range e.Pods {
				pods = append(pods, p.Name+" ("+p.UID+")")
			}
			lines = append(lines, []string{e.Identity, e.Node, strings.Join(pods, ", "), blank(long(time.Duration(e.TTL))), e.Serial, e.Issuer, strings.Join(e.DNSNames, ","), strings.Join(e.Selectors, " ")})
		}
		for _, n := range silent {
			lines = append(lines, []string{"unknown: " + n.Problem, n.Node, "", "", "", "", "", ""})
		}
		return errors.Join(table(c.Stdout, "IDENTITY|NODE|PODS (UID)|TTL|SERIAL|ISSUER|DNS NAMES|SELECTORS", lines), fail(len(silent) > 0))
	}
	return cmd
}

func (c *command) entries(nodes []fleet.Node, s *selection) (all []entry) {
	for _, h := range holdings(nodes, c.Now()) {
		if !s.matches(h, c.Now()) {
			continue
		}
		i := slices.IndexFunc(nodes, func(n fleet.Node) bool { return n.Name == h.Node })
		account := accountOf(h.Identity)
		e := entry{
			Identity: h.Identity, Node: h.Node, Pods: podsOf(nodes[i].Dump, h.Identity), Serial: h.Serial, Issuer: h.Issuer,
			DNSNames:  []string{},
			Selectors: []string{"k8s:ns:" + account.Namespace, "k8s:sa:" + account.Name},
		}
		if leaf := h.Leaf(); leaf != nil {
			e.TTL, e.DNSNames = seconds(leaf.NotAfter.Sub(leaf.NotBefore)), nonNil(leaf.DNSNames)
		}
		all = append(all, e)
	}
	return all
}

func podsOf(d fleet.Dump, id string) []podRef {
	refs := []podRef{}
	for uid, pod := range d.Pods {
		if pod.Identity == id {
			refs = append(refs, podRef{pod.Sandbox.Namespace, pod.Sandbox.Name, uid, pod.State})
		}
	}
	slices.SortFunc(refs, func(a, b podRef) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID)) })
	return refs
}
