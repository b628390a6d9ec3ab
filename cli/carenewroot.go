// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity/ca"
)

func (c *command) caRenewRoot() *cobra.Command {
	life := rootTTL
	var rootKey, passphrase string
	var key custody.Key
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "renew-root",
		Short: "Make the root's next certificate, with the same key",
		Long: `renew-root makes another certificate of the CA's root: of the same name and key, with
another serial number and a later end. Issuers and certificates that the root vouched for
hold under both, so nothing else is made anew, and no tunnel ends. The former certificate
stays in the bundle until it has expired; a later renew-root leaves it out. Running replicas
take both within seconds, and nodes get them by the CA's bundle. It works when the root has
expired: then ca renew-issuer is next, unless culvert-identity has root.key and renews its
issuer itself.

It is no re-key. If the root's private key may be in other hands, renewing does not help.

The root must be the CA's own: that of cert-manager's issuer, or of an authority above the
mesh, is renewed where it was made. Its private key is the one beside the root, or in
--root-key: PEM, what ca init --root-offline wrote, or unix:PATH of the signer that has it.`,
		Example: "  culvert ca renew-root --root-key root.key.age --identity-file key.txt",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().Var(&life, "root-ttl", "lifetime of the next certificate, from now on")
	cmd.Flags().StringVar(&rootKey, "root-key", "", rootKeyUse)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing: print what would be done")
	keyFlags(cmd.Flags(), &key)
	caPassphraseFlag(cmd, &passphrase)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keep, files, err := c.kept(cmd.Context())
		if err != nil {
			return err
		}
		if err := ca.OwnRoot(files); err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		signer, err := rootSigner(cmd.Context(), files, rootKey, key, passphrase)
		if err != nil {
			return err
		}
		next, err := ca.NextRoot(files, signer, ca.Options{RootTTL: time.Duration(life), PassphraseFile: passphrase})
		if d := (ca.Defect{}); errors.As(err, &d) && ca.NeedsPassphrase(d) {
			return hint(fmt.Errorf("%s: %w", keep, err), "give its passphrase by --ca-passphrase-file")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", keep, err)
		}
		roots := next.Roots()
		if dryRun { // the serial number would be another one
			fmt.Fprintf(c.Stdout, "would be written: %s: the root %s once more, until %s; name and key stay the same: this is no re-key\n",
				keep, printable(name(roots[0])), stamp(roots[0].NotAfter))
			return nil
		}
		if err := keep.Replace(cmd.Context(), files, next); err != nil {
			return fmt.Errorf("store the root: %w", err)
		}
		c.sayRenewed(keep, roots[0], roots)
		return nil
	}
	return cmd
}

// sayRenewed says what became of a root, and which certificates of it stay.
func (c *command) sayRenewed(keep custody.Keep, renewed *x509.Certificate, roots []*x509.Certificate) {
	fmt.Fprintf(c.Stdout, "%s: the root %s is serial %s now, until %s; name and key are the same: this is no re-key\n",
		keep, printable(name(renewed)), renewed.SerialNumber.Text(16), stamp(renewed.NotAfter))
	for _, root := range roots {
		if by := ca.Renewed(root, roots); by != nil && by.Equal(renewed) {
			fmt.Fprintf(c.Stdout, "its certificate of serial %s stays beside it, until %s\n", root.SerialNumber.Text(16), stamp(root.NotAfter))
		}
	}
}
