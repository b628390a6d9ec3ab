// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func (c *command) certsGet() *cobra.Command {
	var s selection
	var chain, roots bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Print an identity's certificate, its chain or its roots",
		Long: `get prints the certificate that nodes hold for an identity: a SPIFFE ID, or
namespace/name of a ServiceAccount. --chain adds those above it, --roots prints the roots
that its node trusts instead. Each node has a certificate of its own: a comment before each
says whose and where.`,
		Example: "  culvert certs get shop/web -o text\n  culvert certs get shop/web --chain | openssl storeutl -noout -text /dev/stdin",
		Args:    cobra.ExactArgs(1),
	}
	out := formats(cmd, "pem", "json", "text")
	cmd.Flags().StringSliceVar(&s.nodes, "node", nil, "comma-separated `names` of nodes")
	cmd.Flags().BoolVar(&chain, "chain", false, "with the certificates above it, but for the root")
	cmd.Flags().BoolVar(&roots, "roots", false, "the roots that the node trusts, instead")
	cmd.MarkFlagsMutuallyExclusive("chain", "roots")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		nodes, err := c.nodes(cmd)
		if err != nil {
			return err
		}
		found, err := theirs(holdings(nodes, c.Now()), args[0])
		if err != nil {
			return err
		}
		var all []printed
		for _, h := range found {
			if !s.matches(h, c.Now()) {
				continue
			}
			certs := h.Chain[:min(1, len(h.Chain))]
			if chain {
				certs = h.Chain
			}
			if roots {
				certs = h.Roots
			}
			all = append(all, printed{Node: h.Node, Identity: h.Identity, State: h.State, Certificates: describe(certs)})
		}
		silent := unanswered(nodes, s.nodes)
		for _, n := range silent {
			fmt.Fprintf(c.Stderr, "culvert: %s did not answer: %s\n", printable(n.Node), printable(n.Problem))
		}
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, all), fail(len(silent) > 0))
		}
		for _, p := range all {
			p.print(c.Stdout, out.value)
		}
		return fail(len(silent) > 0)
	}
	return cmd
}

// printed is what one node holds of an identity.
type printed struct {
	Node         string      `json:"node"`
	Identity     string      `json:"identity"`
	State        string      `json:"state"`
	Certificates []described `json:"certificates"`
}

func (p printed) print(w io.Writer, kind string) {
	fmt.Fprintf(w, "# %s on %s: %s\n", printable(p.Identity), printable(p.Node), p.State)
	for _, cert := range p.Certificates {
		if kind == "pem" {
			io.WriteString(w, cert.PEM)
			continue
		}
		cert.text(w)
	}
}

// described is a certificate for programs.
type described struct {
	Subject     string   `json:"subject"`
	Issuer      string   `json:"issuer"`
	Serial      string   `json:"serial"` // hexadecimal
	NotBefore   string   `json:"notBefore"`
	NotAfter    string   `json:"notAfter"`
	Key         string   `json:"key"`
	Signature   string   `json:"signature"`
	CA          bool     `json:"ca"`
	PathLength  *int     `json:"pathLength,omitempty"`
	URIs        []string `json:"uris,omitempty"`
	DNSNames    []string `json:"dnsNames,omitempty"`
	Usages      []string `json:"usages,omitempty"`
	Fingerprint string   `json:"sha256"`
	PEM         string   `json:"pem"`
}

func describe(certs []*x509.Certificate) []described {
	all := []described{}
	for _, cert := range certs {
		d := described{
			Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Serial: cert.SerialNumber.Text(16),
			NotBefore: stamp(cert.NotBefore), NotAfter: stamp(cert.NotAfter),
			Key: keyOf(cert), Signature: cert.SignatureAlgorithm.String(), CA: cert.IsCA, DNSNames: cert.DNSNames,
			Usages: usages(cert), Fingerprint: fingerprint(cert),
			PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		}
		if cert.IsCA && (cert.MaxPathLen > 0 || cert.MaxPathLenZero) {
			d.PathLength = &cert.MaxPathLen
		}
		for _, uri := range cert.URIs {
			d.URIs = append(d.URIs, uri.String())
		}
		all = append(all, d)
	}
	return all
}

func (d described) text(w io.Writer) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-12s %s\n", name, printable(value))
		}
	}
	fmt.Fprintln(w, "certificate")
	line("subject", d.Subject)
	line("issuer", d.Issuer)
	line("serial", d.Serial)
	line("not before", d.NotBefore)
	line("not after", d.NotAfter)
	line("key", d.Key)
	line("signature", d.Signature)
	if d.CA {
		length := "any"
		if d.PathLength != nil {
			length = fmt.Sprint(*d.PathLength)
		}
		line("authority", "yes, path length "+length)
	}
	line("URI", strings.Join(d.URIs, ", "))
	line("DNS", strings.Join(d.DNSNames, ", "))
	line("usage", strings.Join(d.Usages, ", "))
	line("sha256", d.Fingerprint)
}
