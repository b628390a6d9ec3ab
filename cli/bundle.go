// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/fleet"
)

func (c *command) bundle() *cobra.Command {
	return noun("bundle", "Show which roots the mesh trusts", c.bundleShow(), c.bundleHistory(), c.bundleAcks(), c.bundleFederations())
}

func certsOf(certs ...custody.Certificate) (all []*x509.Certificate) {
	for _, c := range certs {
		all = append(all, c.Cert)
	}
	return all
}

// setOf names a set of roots, in hexadecimal: their order does not matter. It is the
// name that the CA gives to its bundle.
func setOf(roots []*x509.Certificate) string {
	if len(roots) == 0 {
		return ""
	}
	var sums []string
	for _, root := range roots {
		sum := sha256.Sum256(root.Raw)
		sums = append(sums, string(sum[:]))
	}
	slices.Sort(sums)
	all := sha256.New()
	for _, sum := range slices.Compact(sums) {
		all.Write([]byte(sum))
	}
	return hex.EncodeToString(all.Sum(nil))
}

// trusted is a root, and who trusts it.
type trusted struct {
	Subject     string    `json:"subject"`
	Serial      string    `json:"serial"`
	Fingerprint string    `json:"sha256"`
	NotAfter    time.Time `json:"notAfter"`
	Where       []string  `json:"where"`
}

func (c *command) bundleShow() *cobra.Command {
	var where bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the roots that the mesh trusts, and where they are",
		Long: `show prints each root once: with --where, in which objects, on which nodes and on which
replicas of the CA it is. A root that is not everywhere is one that somebody does not trust.`,
		Example: "  culvert bundle show --where",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json", "pem")
	cmd.Flags().BoolVar(&where, "where", false, "all places of each root, one in a line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := c.mesh(cmd.Context())
		if err != nil {
			return err
		}
		roots := m.found(tierRoot)
		if len(roots) == 0 {
			return errors.New("no root was found: no CA, no ztunnel and no object of roots answered")
		}
		switch out.value {
		case "pem":
			for _, f := range roots {
				fmt.Fprint(c.Stdout, describe([]*x509.Certificate{f.cert})[0].PEM)
			}
			return nil
		case "json":
			var all []trusted
			for _, f := range roots {
				all = append(all, trusted{f.cert.Subject.String(), f.cert.SerialNumber.Text(16), fingerprint(f.cert), f.cert.NotAfter, f.places})
			}
			return printJSON(c.Stdout, map[string]any{"roots": all, "problems": nonNil(m.problems)})
		}
		var rows [][]string
		for _, f := range roots {
			places := []string{f.where()}
			if where {
				places = f.places
			}
			for i, place := range places {
				row := []string{name(f.cert), f.cert.SerialNumber.Text(16), stamp(f.cert.NotAfter), c.left(f.cert.NotAfter), fingerprint(f.cert), place}
				if i > 0 {
					row = []string{" ", " ", " ", " ", " ", place}
				}
				rows = append(rows, row)
			}
		}
		return table(c.Stdout, "ROOT|SERIAL|NOT AFTER|LEFT|SHA256|WHERE", rows)
	}
	return cmd
}

// acknowledged is which bundle a node has.
type acknowledged struct {
	Node       string    `json:"node"`
	Generation uint64    `json:"generation,omitempty"`
	Set        string    `json:"set"`            // of the roots it verifies by
	Since      time.Time `json:"since,omitzero"` // how its stream of the CA is
	State      string    `json:"state"`          // current, behind, unknown
	Missing    []string  `json:"missing"`        // names of roots that it should have
	More       []string  `json:"more"`           // that it should not
	Problem    string    `json:"problem,omitempty"`
}

func (c *command) bundleAcks() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "acks",
		Short: "Show which nodes have the bundle as it is now",
		Long: `acks compares what each node verifies its peers by with the roots that the CA publishes,
and names the nodes that lag, with the generation that the CA told them last.

The exit code is 2 if a node lags or did not answer.`,
		Example: "  culvert bundle acks",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := c.mesh(cmd.Context())
		if err != nil {
			return err
		}
		published := m.published()
		if len(published) == 0 {
			return errors.New("nothing says which roots there should be: neither the CA nor an object of roots answered")
		}
		rows := m.acks(published)
		failed := slices.ContainsFunc(rows, func(a acknowledged) bool { return a.State != bundleCurrent })
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"set": setOf(published), "nodes": nonNil(rows), "ok": !failed}), fail(failed))
		}
		var lines [][]string
		for _, a := range rows {
			generation := ""
			if a.Generation > 0 {
				generation = fmt.Sprint(a.Generation)
			}
			lines = append(lines, []string{a.Node, a.State, generation, short(a.Set), stamp(a.Since), strings.Join(a.Missing, ", "), strings.Join(a.More, ", "), a.Problem})
		}
		return errors.Join(table(c.Stdout, "NODE|STATE|GENERATION|SET|SINCE|MISSING|MORE|PROBLEM", lines), fail(failed))
	}
	return cmd
}

func short(hash string) string { return hash[:min(len(hash), 16)] }

// How a node stands to the bundle.
const (
	bundleCurrent = "current"
	bundleBehind  = "behind"
)

// published are the roots that nodes should have: as the CA says, or else as the
// objects do that it writes.
func (m mesh) published() (roots []*x509.Certificate) {
	for _, ca := range m.cas {
		if ca.State != nil && len(ca.State.Bundle.Roots) > 0 {
			return ca.State.Bundle.Roots
		}
	}
	for _, s := range m.stored {
		if s.Root && !slices.ContainsFunc(roots, s.Cert.Equal) {
			roots = append(roots, s.Cert)
		}
	}
	return roots
}

func (m mesh) acks(published []*x509.Certificate) (all []acknowledged) {
	for _, n := range m.nodes {
		a := acknowledged{Node: n.Name, State: endsUnknown, Problem: n.Problem, Missing: []string{}, More: []string{}}
		roots := trustedBy(n)
		if f := n.Dump.Following; f != nil {
			a.Generation, a.Set, a.Since, a.Problem = f.Generation, f.SHA256, f.Since, f.Problem
		} else if roots != nil {
			a.Set = setOf(roots)
		}
		switch {
		case n.Problem != "":
		case roots != nil:
			a.Missing, a.More = lacking(published, roots), lacking(roots, published)
			fallthrough
		case a.Set != "":
			if a.State = bundleBehind; a.Set == setOf(published) {
				a.State = bundleCurrent
			}
		case a.Problem == "":
			a.Problem = "it shows no roots"
		}
		all = append(all, a)
	}
	return all
}

// trustedBy are the roots that a node verifies its peers by; nil if it shows none.
func trustedBy(n fleet.Node) (roots []*x509.Certificate) {
	for _, h := range n.Dump.Certificates {
		for _, root := range h.Roots {
			if !slices.ContainsFunc(roots, root.Equal) {
				roots = append(roots, root)
			}
		}
	}
	return roots
}

// lacking are the names of those of some that others do not have.
func lacking(some, others []*x509.Certificate) []string {
	names := []string{}
	for _, cert := range some {
		if !slices.ContainsFunc(others, cert.Equal) {
			names = append(names, name(cert)+" ("+short(fingerprint(cert))+")")
		}
	}
	return names
}
