// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// Tiers of certificates, from what lives longest.
const (
	tierRoot    = "root"
	tierIssuer  = "issuer"
	tierServing = "serving"
	tierLeaf    = "leaf"
)

// How it stands with a certificate's end.
const (
	endsWell    = "ok"
	endsSoon    = "soon"    // within the bound that was asked for
	endsOverdue = "overdue" // renewed by itself, and has less than a quarter of its life left
	endsNot     = "expired"
	endsRenewed = "renewed" // a root: wherever it is, its next certificate is, too
	endsUnknown = "unknown" // nobody could be asked
)

// ending is one row of the expiry table; of leaves, three of them stand for all.
type ending struct {
	Tier      string    `json:"tier"`
	Name      string    `json:"name"`
	Where     string    `json:"where"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	Lifetime  seconds   `json:"lifetimeSeconds"`
	Left      seconds   `json:"leftSeconds"` // negative: expired so long ago
	State     string    `json:"state"`
	Problem   string    `json:"problem,omitempty"`

	cert    *x509.Certificate
	renewed bool // a root, see found.renewed
}

// seconds is a duration that programs read as a number.
type seconds time.Duration

// MarshalJSON is part of json.Marshaler.
func (s seconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.3f", time.Duration(s).Seconds()), nil
}

func (c *command) expiry() *cobra.Command {
	var within lifetime
	cmd := &cobra.Command{
		Use:   "expiry",
		Short: "Show when roots, issuers, serving certificates and workloads' certificates end",
		Long: `expiry shows when each tier of the mesh's certificates ends, with its lifetime: roots,
issuers, what the CA serves, and of workloads' certificates the first, the middle and the
last to end. What has expired is shown, too. Of a root that ca renew-root renewed, the former
certificate is no failure wherever the next one is, too.

The exit code is 2 if anything has expired, is overdue or could not be looked at, or, with
--fail-within, ends within that time. What lives shorter than that as a whole is renewed by
itself: it fails when it is overdue, with less than a quarter of its life left.`,
		Example: "  culvert expiry --fail-within 30d",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.Flags().Var(&within, "fail-within", "exit with 2 if something ends within this `duration`, as 30d")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rows, err := c.endings(cmd.Context(), time.Duration(within))
		if err != nil {
			return err
		}
		failed := slices.ContainsFunc(rows, func(e ending) bool { return e.State != endsWell && e.State != endsRenewed })
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"certificates": rows, "ok": !failed}), fail(failed))
		}
		var lines [][]string
		for _, e := range rows {
			left := long(time.Duration(e.Left))
			if e.State == endsUnknown {
				left = ""
			}
			lines = append(lines, []string{strings.ToUpper(e.Tier[:1]) + e.Tier[1:], e.Name, e.Where, stamp(e.NotAfter), blank(long(time.Duration(e.Lifetime))), left, strings.TrimSuffix(e.State+": "+e.Problem, ": ")})
		}
		return errors.Join(table(c.Stdout, "TIER|NAME|WHERE|NOT AFTER|LIFETIME|LEFT|STATE", lines), fail(failed))
	}
	return cmd
}

func blank(s string) string {
	if s == "0s" {
		return ""
	}
	return s
}

// endings looks at all that can be reached.
func (c *command) endings(ctx context.Context, within time.Duration) ([]ending, error) {
	m, err := c.mesh(ctx)
	if err != nil {
		return nil, err
	}
	now := c.Now()
	var all []ending
	add := func(e ending) {
		if e.cert != nil {
			e.NotBefore, e.NotAfter = e.cert.NotBefore, e.cert.NotAfter
			e.Lifetime, e.Left = seconds(e.NotAfter.Sub(e.NotBefore)), seconds(e.NotAfter.Sub(now))
			if e.State = end(e.cert, now, within); e.renewed {
				e.State = endsRenewed
			}
		}
		all = append(all, e)
	}
	for _, tier := range []string{tierRoot, tierIssuer} {
		all := m.found(tier)
		for _, f := range all {
			add(ending{Tier: tier, Name: name(f.cert), Where: f.where(), cert: f.cert, renewed: tier == tierRoot && f.renewed(all, now)})
		}
	}
	for _, ca := range m.cas {
		add(ending{Tier: tierServing, Name: names(ca.Leaf()), Where: ca.Name, cert: ca.Leaf(), State: endsUnknown, Problem: ca.Problem})
	}
	for _, e := range leaves(m.nodes) {
		add(e)
	}
	for _, n := range m.nodes {
		if n.Problem != "" {
			add(ending{Tier: tierLeaf, Where: n.Name, State: endsUnknown, Problem: n.Problem})
		}
	}
	for _, problem := range m.problems {
		add(ending{Tier: tierRoot, State: endsUnknown, Problem: problem})
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate to look at: no CA and no ztunnel was found")
	}
	return all, nil
}

// end says how it stands with a certificate.
func end(cert *x509.Certificate, now time.Time, within time.Duration) string {
	life, left := cert.NotAfter.Sub(cert.NotBefore), cert.NotAfter.Sub(now)
	switch {
	case left <= 0:
		return endsNot
	case left < life/4 && (life <= within || !cert.IsCA && life <= day+time.Hour):
		return endsOverdue
	case left < within && life > within:
		return endsSoon
	}
	return endsWell
}

// leaves are the first, the middle and the last to end of all nodes' certificates.
func leaves(nodes []fleet.Node) []ending {
	var all []ending
	for _, n := range nodes {
		for _, h := range n.Dump.Certificates {
			if leaf := h.Leaf(); leaf != nil {
				all = append(all, ending{Tier: tierLeaf, Where: n.Name, Name: h.Identity, cert: leaf})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b ending) int {
		return cmp.Or(a.cert.NotAfter.Compare(b.cert.NotAfter), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Where, b.Where))
	})
	first, middle, last := all[0], all[len(all)/2], all[len(all)-1]
	for e, word := range map[*ending]string{&first: "min", &middle: "p50", &last: "max"} {
		e.Name = fmt.Sprintf("%s of %d: %s", word, len(all), e.Name)
	}
	return []ending{first, middle, last}
}

// name is the certificate's subject for people.
func name(cert *x509.Certificate) string {
	if cert.Subject.CommonName != "" {
		return cert.Subject.CommonName
	}
	if s := cert.Subject.String(); s != "" {
		return s
	}
	return names(cert)
}

// names are the names that a leaf is for.
func names(cert *x509.Certificate) string {
	if cert == nil {
		return ""
	}
	all := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	for _, uri := range cert.URIs {
		all = append(all, uri.String())
	}
	return strings.Join(all, ",")
}

// fingerprint is the SHA-256 of a certificate, as openssl prints it but for colons.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}
