// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

func (c *command) caTaint() *cobra.Command {
	life := issuerTTL
	var rootKey, passphrase string
	var key custody.Key
	var signers signerFlags
	cmd := &cobra.Command{
		Use:   "taint ISSUER",
		Short: "Have the issuer sign no more, and what it signed renewed at once",
		Long: `taint is for an issuer whose private key may be in other hands. It makes the next issuer
under the same root, as ca renew-issuer does, and has the CA tell every node to renew at once
what the former one signed. ISSUER names it: by its serial number, or by the SHA-256 of its
certificate, as ca show prints them.

What the former issuer signed holds until it ends: a thief goes on with what was signed by
then, and may sign more. To have nodes refuse it, put the issuer into the deny set, too.

A root is not tainted by itself: ca rotate-root --compromised replaces it.`,
		Example: "  culvert ca taint 5f0c6d",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().Var(&life, "issuer-ttl", "lifetime of the next issuer")
	cmd.Flags().StringVar(&rootKey, "root-key", "", rootKeyUse)
	signers.defineIssuer(cmd)
	keyFlags(cmd.Flags(), &key)
	caPassphraseFlag(cmd, &passphrase)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keep, files, err := c.kept(cmd.Context())
		if err != nil {
			return err
		}
		issuer, err := tainted(files, args[0])
		if err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		plan, err := rekey.Of(files)
		if err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		if plan.State != rekey.Stable {
			return hint(fmt.Errorf("%s: %w: a re-key of the root is under way, in the state %s", keep, rekey.ErrNotNow, plan.State), "it replaces the issuer, too: see culvert ca rotate-root --status")
		}
		opts := ca.Options{IssuerTTL: time.Duration(life)}
		if err := signers.ask(cmd.Context(), &opts); err != nil {
			return err
		}
		signer, err := rootSigner(cmd.Context(), files, rootKey, key, passphrase)
		if err != nil {
			return err
		}
		next, err := ca.NextIssuer(files, signer, opts)
		if err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		made := ca.IssuerOf(next)
		if identity.KeyHash(made) == identity.KeyHash(issuer) {
			return hint(errors.New("the next issuer would have the key of this one, which a signer has"), "give the signer of another key by --issuer-signer")
		}
		maps.Copy(next, plan.Taint(identity.KeyHash(issuer)).Files())
		if err := keep.Replace(cmd.Context(), files, next); err != nil {
			return fmt.Errorf("store the issuer: %w", err)
		}
		fmt.Fprintf(c.Stdout, "%s: the issuer is serial %s now, until %s; nodes renew what serial %s signed\n",
			keep, made.SerialNumber.Text(16), stamp(made.NotAfter), issuer.SerialNumber.Text(16))
		fmt.Fprintf(c.Stdout, "to have nodes refuse it, deny the issuer %s\n", hex.EncodeToString(issuer.SubjectKeyId))
		return nil
	}
	return cmd
}

// tainted is the issuer in files, if that is what a name means.
func tainted(files ca.Files, name string) (*x509.Certificate, error) {
	anchors, err := ca.Anchors(files)
	if err != nil {
		return nil, err
	}
	means := func(cert *x509.Certificate) bool {
		name := strings.ToLower(name)
		return len(name) >= 6 && (strings.HasPrefix(cert.SerialNumber.Text(16), name) || strings.HasPrefix(fingerprint(cert), name))
	}
	issuer := ca.IssuerOf(files)
	if means(issuer) {
		return issuer, nil
	}
	for _, root := range anchors {
		if means(root) {
			return nil, hint(errors.New("that is the root, under which the issuer is"), "culvert ca rotate-root --compromised replaces it")
		}
	}
	return nil, fmt.Errorf("%q is not the issuer that signs now, %s: want six digits or more of its serial number or SHA-256", name, issuer.SerialNumber.Text(16))
}
