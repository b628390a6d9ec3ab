// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// signerFlags name the signers of a CA's keys.
type signerFlags struct{ root, issuer string }

func (s *signerFlags) define(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.root, "root-signer", "", "`URI` of the signer that has the root's private key: unix:PATH")
	s.defineIssuer(cmd)
}

func (s *signerFlags) defineIssuer(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.issuer, "issuer-signer", "", "`URI` of the signer that has the issuer's private key: unix:PATH")
}

// ask puts the signers' keys into opts.
func (s *signerFlags) ask(ctx context.Context, opts *ca.Options) (err error) {
	if opts.Keys == identity.MLDSA65 && s.root+s.issuer != "" {
		return errors.New("--key-kind mldsa65: no signer has such a key: give no --root-signer and no --issuer-signer with it")
	}
	if s.root != "" {
		if opts.RootKey, err = askSigner(ctx, "root-signer", s.root); err != nil {
			return err
		}
	}
	if s.issuer != "" {
		opts.IssuerKey, err = askSigner(ctx, "issuer-signer", s.issuer)
	}
	return err
}

// askSigner is the key of a signer, which has proved it.
func askSigner(ctx context.Context, flag, uri string) (*signing.Key, error) {
	key, err := signing.Ask(ctx, uri)
	if err != nil {
		return nil, hint(fmt.Errorf("--%s: %w", flag, err), "culvert-signer must run on this machine as this user, or root; its log says how it stands with the key")
	}
	return key, nil
}

// usable says why a CA that was made with a signer's key would not start: what is made here
// has no defect.
func usable(files ca.Files, opts ca.Options) error {
	if opts.RootKey == nil && opts.IssuerKey == nil {
		return nil
	}
	var all []error
	for _, d := range ca.Lint(files, opts) {
		if d.Severity == ca.Error {
			all = append(all, d)
		}
	}
	return errors.Join(all...)
}

func (c *command) caSigner() *cobra.Command {
	return &cobra.Command{
		Use:   "signer URI",
		Short: "Ask the signer at unix:PATH for a signature, and print the reference to its key",
		Long: `signer has the signer at a URI, unix:PATH, sign once, verifies that, and prints what stands
for its private key: put it in the place of issuer.key, or of the issuer's key in another
layout, beside the certificate of that key. It holds nothing secret.`,
		Example: "  culvert ca signer unix:/run/culvert-signer/issuer.sock > issuer.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := signing.Ask(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = c.Stdout.Write(key.Reference())
			return err
		},
	}
}
