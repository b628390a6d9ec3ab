// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Lifetimes that are made, unless others are asked for.
const (
	rootTTL   = lifetime(10 * 365 * day)
	issuerTTL = lifetime(365 * day)
)

func (c *command) caInit() *cobra.Command {
	rootLife, issuerLife := rootTTL, issuerTTL
	var domain, offline, kind string
	var lock custody.Lock
	var signers signerFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a CA where there is none",
		Long: `init makes a root and an issuer under it, and stores them in --ca-dir, or on Kubernetes
in the CA's Secret, before culvert-identity first starts: it would make them itself. With
--root-offline the root's private key is not stored there, but written to a file of its own,
encrypted; then only ca renew-issuer, with that file, makes the next issuer.

A key may be that of a signer, a program that has it in a PKCS#11 token or a cloud's KMS:
give the signer's URI, unix:PATH, by --root-signer and --issuer-signer. What is stored is a
reference to the key, and the CA signs by it. Delete root.key, and only ca renew-issuer with
--root-key unix:PATH makes the next issuer.

It refuses where anything is that may be the trace of a CA.`,
		Example: "  culvert ca init --ca-dir ca --root-offline root.key.age --recipient age1…",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&domain, "trust-domain", "cluster.local", "SPIFFE trust `domain`")
	cmd.Flags().Var(&rootLife, "root-ttl", "lifetime of the root")
	cmd.Flags().Var(&issuerLife, "issuer-ttl", "lifetime of the issuer")
	cmd.Flags().StringVar(&kind, "key-kind", string(identity.P256), "`kind` of both keys: p256, or mldsa65, which all nodes must know")
	cmd.Flags().StringVar(&offline, "root-offline", "", "new `file` for the root's private key, encrypted")
	lockFlags(cmd.Flags(), &lock)
	signers.define(cmd)
	cmd.MarkFlagsMutuallyExclusive("root-offline", "root-signer")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		td, err := spiffeid.TrustDomainFromString(domain)
		if err != nil {
			return fmt.Errorf("--trust-domain: %v", err)
		}
		keys, err := identity.ParseKeyKind(kind)
		if err != nil {
			return fmt.Errorf("--key-kind %s: %v", kind, err)
		}
		if issuerLife > rootLife {
			return fmt.Errorf("--issuer-ttl %s is longer than --root-ttl %s: no issuer outlives its root", &issuerLife, &rootLife)
		}
		if offline != "" {
			if err := lock.Check(); err != nil {
				return err
			}
		}
		keep, _, err := c.from.keep(cmd.Context())
		if err != nil {
			return err
		}
		opts := ca.Options{TrustDomain: td, RootTTL: time.Duration(rootLife), IssuerTTL: time.Duration(issuerLife), Keys: keys}
		if err := signers.ask(cmd.Context(), &opts); err != nil {
			return err
		}
		files, err := ca.Make(opts)
		if err != nil {
			return err
		}
		if err := usable(files, opts); err != nil {
			return err
		}
		// First the key: without it no CA is stored that it would be missing of.
		if offline != "" {
			if err := putAside(files, offline, lock); err != nil {
				return err
			}
		}
		if err := keep.Create(cmd.Context(), files); err != nil {
			if offline != "" {
				err = errors.Join(err, os.Remove(offline)) // it is of no CA
			}
			return fmt.Errorf("make a CA in %s: %w", keep, err)
		}
		fmt.Fprintf(c.Stdout, "made a CA for %s in %s\n", td, keep)
		if offline != "" {
			fmt.Fprintf(c.Stdout, "the root's private key is in %s alone: without it there is no next issuer\n", offline)
		}
		return nil
	}
	return cmd
}

// putAside takes the root's private key out of files, into a new one, encrypted.
func putAside(files ca.Files, to string, lock custody.Lock) error {
	sealed, err := lock.Seal(files[ca.RootKeyFile])
	if err != nil {
		return err
	}
	delete(files, ca.RootKeyFile)
	return custody.WriteNew(to, sealed)
}

func (c *command) caRenewIssuer() *cobra.Command {
	life := issuerTTL
	var rootKey, passphrase string
	var key custody.Key
	var signers signerFlags
	cmd := &cobra.Command{
		Use:   "renew-issuer",
		Short: "Make the CA's next issuer, under the same root",
		Long: `renew-issuer makes an issuer under the CA's root, and stores it in the place of the one
that is there. Running replicas take it within seconds; certificates of the former issuer
hold on until they end. It works when the issuer has expired.

The root's private key is the one beside the root, or in --root-key: PEM, or what ca init
--root-offline wrote, or unix:PATH of the signer that has it. The next issuer has a key of
its own, but where a signer has that of the former one, or --issuer-signer names one.`,
		Example: "  culvert ca renew-issuer --root-key root.key.age --identity-file key.txt",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().Var(&life, "issuer-ttl", "lifetime of the issuer")
	cmd.Flags().StringVar(&rootKey, "root-key", "", rootKeyUse)
	signers.defineIssuer(cmd)
	keyFlags(cmd.Flags(), &key)
	caPassphraseFlag(cmd, &passphrase)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keep, files, err := c.kept(cmd.Context())
		if err != nil {
			return err
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
		if err := keep.Replace(cmd.Context(), files, next); err != nil {
			return fmt.Errorf("store the issuer: %w", err)
		}
		issuer := custody.Parse(next, "")[0].Cert
		fmt.Fprintf(c.Stdout, "%s: the issuer is serial %s now, until %s\n", keep, issuer.SerialNumber.Text(16), stamp(issuer.NotAfter))
		return nil
	}
	return cmd
}

// rootKeyUse explains --root-key.
const rootKeyUse = "`file` of the root's private key, or unix:PATH of its signer (default root.key in the CA's place)"

// rootSigner is the root's private key: of a signer, of a file, or among the CA's own.
func rootSigner(ctx context.Context, files ca.Files, path string, key custody.Key, passphraseFile string) (crypto.Signer, error) {
	name, text := ca.RootKeyFile, files[ca.RootKeyFile]
	if signing.IsURI(path) {
		return askSigner(ctx, "root-key", path)
	}
	if path != "" {
		var err error
		name = path
		if text, err = custody.ReadFile(path); err != nil {
			return nil, err
		}
	}
	if text == nil {
		return nil, hint(errors.New("the root's private key is not where the CA is"), "give --root-key FILE")
	}
	if custody.Sealed(text) {
		var err error
		if text, err = key.Open(text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "EC PARAMETERS" {
			continue
		}
		if block.Type == signing.BlockType {
			held, err := signing.Parse(block)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return held, nil
		}
		if custody.Encrypted(block) && passphraseFile == "" {
			return nil, hint(fmt.Errorf("%s is encrypted", name), "give its passphrase by --ca-passphrase-file")
		}
		clear, err := ca.OpenKey(block, passphraseFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		signer, err := custody.ParseKey(clear)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return signer, nil
	}
	return nil, fmt.Errorf("%s holds no private key in PEM", name)
}
