// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// finding is something that is not as it should be with a CA, and what to do.
type finding struct {
	What string   `json:"what"`
	Do   []string `json:"do"`
}

func (c *command) caRecover() *cobra.Command {
	var passphrase string
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Explain what is left of a CA and how to get it back",
		Long: `recover looks at the CA's place, at the roots that were published, and at what nodes
still trust, and says what happened and what to do, command by command. It changes nothing.
It works when all has expired, when a part is lost, and when no program answers.

The exit code is 2 if there is something to do.`,
		Example: "  culvert ca recover\n  culvert ca recover --ca-dir /var/lib/culvert/ca",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "text", "json")
	caPassphraseFlag(cmd, &passphrase)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		remains, err := c.remains(cmd.Context())
		if err != nil {
			return err
		}
		remains.passphraseFile = passphrase
		all := remains.findings(c.Now())
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, map[string]any{"where": remains.where, "findings": nonNil(all), "ok": len(all) == 0}), fail(len(all) > 0))
		}
		fmt.Fprintf(c.Stdout, "looked at: %s\n", strings.Join(remains.looked, ", "))
		if len(all) == 0 {
			fmt.Fprintln(c.Stdout, "The CA is complete, and nothing of it has expired. There is nothing to recover.")
			return nil
		}
		for i, f := range all {
			fmt.Fprintf(c.Stdout, "\n%d. %s\n", i+1, f.What)
			for _, step := range f.Do {
				fmt.Fprintf(c.Stdout, "   - %s\n", step)
			}
		}
		return fail(true)
	}
	return cmd
}

// remains is what is left of a CA.
type remains struct {
	where     string // the CA's place
	directory bool
	looked    []string
	files     ca.Files // nil: nothing is in the place
	published []custody.Certificate
	nodes     []*x509.Certificate // roots that nodes still verify by

	passphraseFile string // that opens private keys which are encrypted; none
}

func (c *command) remains(ctx context.Context) (r remains, err error) {
	keep, traces, err := c.from.keep(ctx)
	if err != nil {
		return r, err
	}
	r.where, r.looked = keep.String(), []string{keep.String()}
	_, r.directory = keep.(custody.Directory)
	if r.files, err = keep.Read(ctx); err != nil {
		return r, fmt.Errorf("%s: %w", keep, err)
	}
	for _, place := range traces {
		certs, err := custody.Certificates(ctx, place)
		if err != nil {
			return r, err
		}
		r.published, r.looked = append(r.published, certs...), append(r.looked, place.String())
	}
	m, err := c.mesh(ctx)
	if err != nil { // no program needs to answer
		r.looked = append(r.looked, "no node: "+err.Error())
		return r, nil
	}
	for _, n := range m.nodes {
		if n.Problem != "" {
			r.looked = append(r.looked, n.Name+": "+n.Problem)
			continue
		}
		r.looked = append(r.looked, "node "+n.Name)
		for _, root := range trustedBy(n) {
			if !slices.ContainsFunc(r.nodes, root.Equal) {
				r.nodes = append(r.nodes, root)
			}
		}
	}
	return r, nil
}

// trusted are the roots that somebody goes by: as published, or on nodes.
func (r remains) trusted() (roots []*x509.Certificate) {
	for _, cert := range append(certsOf(r.published...), r.nodes...) {
		if !slices.ContainsFunc(roots, cert.Equal) {
			roots = append(roots, cert)
		}
	}
	return roots
}

// findings says what is wrong, the first to mend first.
func (r remains) findings(now time.Time) []finding {
	parts, keys := partsOf(r.files, r.passphraseFile, now), custody.Keys(r.files, r.passphraseFile)
	roots, issuers := withRole(parts, roleRoot), withRole(parts, roleIssuer)
	switch {
	case len(parts) == 0 && len(keys) == 0:
		return []finding{r.gone()}
	case len(roots) == 0 || len(issuers) == 0:
		return []finding{r.partial(roots, issuers)}
	}
	var all []finding
	if f := r.strange(roots); f != nil {
		all = append(all, *f)
	}
	all = append(all, r.sealed(keys)...)
	all = append(all, r.expired(roots, issuers, now)...)
	return all
}

// sealed says of encrypted keys that nobody has seen whether they belong to the CA.
func (r remains) sealed(keys []custody.PrivateKey) (all []finding) {
	for _, key := range keys {
		switch {
		case !key.Sealed():
		case r.passphraseFile == "":
			all = append(all, finding{fmt.Sprintf("%s in %s is encrypted: whether it belongs to its certificate is not known.", key.File, r.where), []string{
				"Give its passphrase: --ca-passphrase-file FILE. On Kubernetes it is in the Secret that the chart's identity.passphraseSecret names",
			}})
		default:
			all = append(all, finding{fmt.Sprintf("%s in %s is encrypted, and was not opened: %s.", key.File, r.where, key.Problem), []string{
				"Find the passphrase: without it the key is lost, and culvert-identity does not start.", fromBackup,
			}})
		}
	}
	return all
}

func withRole(parts []part, role string) (all []part) {
	for _, p := range parts {
		if p.Role == role {
			all = append(all, p)
		}
	}
	return all
}

const fromBackup = "If there is a backup: culvert ca restore FILE --identity-file KEY"

func (r remains) gone() finding {
	roots := r.trusted()
	if len(roots) == 0 {
		return finding{r.where + " holds no CA, and nothing trusts the root of one.", []string{
			"There was none, or all of its traces are gone, too.",
			fromBackup + ". Its root must be the one that others trust, if any do.",
			"Else start culvert-identity: it makes a CA. Or make one whose root's key stays elsewhere: culvert ca init",
		}}
	}
	steps := []string{fromBackup}
	if !r.directory {
		steps = append(steps, "If the CA is in another Secret (identity.existingSecret, pem or certManager of the chart), nothing is lost: --ca-secret NAME")
		steps = append(steps, "Leave running replicas of culvert-identity alone: one that has the CA in memory makes the Secret again within seconds.")
	}
	return finding{fmt.Sprintf("%s holds no CA, and a root of one is still trusted: %s.", r.where, rootNames(roots)), append(steps,
		"Until then workloads go on until their certificates end: culvert ca outage-budget says when.",
		"Without a backup the private keys are lost. Only then, and knowing that no workload of the old CA will be trusted by the new one: delete the published root, and start culvert-identity; it makes a CA.",
	)}
}

func rootNames(roots []*x509.Certificate) string {
	var all []string
	for _, root := range roots {
		all = append(all, fmt.Sprintf("%s (sha256 %s)", name(root), short(fingerprint(root))))
	}
	return strings.Join(all, ", ")
}

func (r remains) partial(roots, issuers []part) finding {
	var missing []string
	if len(roots) == 0 {
		missing = append(missing, "no root certificate")
	}
	if len(issuers) == 0 {
		missing = append(missing, "no certificate of an issuer with its private key")
	}
	steps := []string{
		"Do not empty the place, and do not start culvert-identity on an empty one: what is there cannot be made again.",
		fromBackup + ", into another place; then put what is missing beside what is there",
	}
	if len(roots) == 0 && len(r.trusted()) > 0 {
		steps = append(steps, "The root is public, and still published: culvert bundle show -o pem")
	}
	for _, p := range roots {
		if p.Key != keysElsewhere {
			steps = append(steps, "The root's private key is in "+p.File+"'s place ("+p.Key+"): culvert ca renew-issuer makes another issuer under it")
		} else {
			steps = append(steps, "If the root's private key is kept elsewhere: culvert ca renew-issuer --root-key FILE makes another issuer under it")
		}
	}
	return finding{fmt.Sprintf("%s holds a part of a CA: %s.", r.where, strings.Join(missing, ", ")), steps}
}

// strange says that others trust none of the CA's roots.
func (r remains) strange(roots []part) *finding {
	trusted := r.trusted()
	for _, p := range roots {
		known := func(other *x509.Certificate) bool { return ca.SameAuthority(p.Certificate.Cert, other) }
		if len(trusted) == 0 || slices.ContainsFunc(trusted, known) {
			return nil
		}
	}
	return &finding{fmt.Sprintf("The root in %s is %s; what is trusted is another: %s.", r.where, name(roots[0].Certificate.Cert), rootNames(trusted)), []string{
		"The CA was replaced by another one. " + fromBackup + ", of the CA whose root is trusted",
		"Or, if the new CA is meant: publish both roots before nodes get certificates of it. (Moving to another root step by step is not in this version.)",
	}}
}

func (r remains) expired(roots, issuers []part, now time.Time) (all []finding) {
	for _, p := range roots {
		cert := p.Certificate.Cert
		if now.Before(cert.NotAfter) {
			continue
		}
		all = append(all, finding{fmt.Sprintf("The root %s (%s) expired at %s, %s ago: nobody is trusted under it.", name(cert), p.File, stamp(cert.NotAfter), long(now.Sub(cert.NotAfter))), []string{
			"First see that the clock is right: it says " + stamp(now),
			p.rootStep(),
			"Without its key: make a new CA, and give it to the nodes: culvert ca init, in an empty place; keep the old one as a backup",
		}})
	}
	if len(all) > 0 {
		return all
	}
	for _, p := range issuers {
		cert := p.Certificate.Cert
		if now.Before(cert.NotAfter) {
			continue
		}
		if p.File == "tls.crt" {
			all = append(all, finding{expiredIssuer(p, now), []string{
				"First see that the clock is right: it says " + stamp(now),
				"The certificate is cert-manager's: kubectl describe certificate says why it was not renewed. culvert-identity takes the next one within seconds.",
			}})
			continue
		}
		step := "The root is valid, and its private key is there: culvert ca renew-issuer"
		if !slices.ContainsFunc(roots, func(p part) bool { return p.Key != keysElsewhere }) {
			step = "The root is valid, and its private key is not there: culvert ca renew-issuer --root-key FILE"
		}
		all = append(all, finding{expiredIssuer(p, now), []string{
			"First see that the clock is right: it says " + stamp(now), step,
		}})
	}
	return all
}

// rootStep is how a root that has expired is renewed.
func (p part) rootStep() string {
	if p.File != ca.RootFile {
		return "Renew it where it was made; if that was here, and its private key is still there, with that key."
	}
	if p.Key == keysElsewhere {
		return "With its private key, the root is renewed: culvert ca renew-root --root-key FILE, then culvert ca renew-issuer --root-key FILE"
	}
	return "Its private key is there: culvert ca renew-root, then culvert ca renew-issuer"
}

func expiredIssuer(p part, now time.Time) string {
	cert := p.Certificate.Cert
	return fmt.Sprintf("The issuer %s (%s) expired at %s, %s ago: no certificate can be signed.", name(cert), p.File, stamp(cert.NotAfter), long(now.Sub(cert.NotAfter)))
}
