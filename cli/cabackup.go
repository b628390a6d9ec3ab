// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity/ca"
)

func lockFlags(flags *pflag.FlagSet, lock *custody.Lock) {
	flags.StringArrayVar(&lock.Recipients, "recipient", nil, "age `recipient` that keys are encrypted to, as age1…; may be given again")
	flags.StringVar(&lock.PassphraseFile, "passphrase-file", "", "`file` whose first line is the passphrase")
}

func keyFlags(flags *pflag.FlagSet, key *custody.Key) {
	flags.StringVar(&key.IdentityFile, "identity-file", "", "age identity `file` that opens it, as age-keygen writes it")
	flags.StringVar(&key.PassphraseFile, "passphrase-file", "", "`file` whose first line is the passphrase")
}

func (c *command) caExport() *cobra.Command {
	var to string
	var withKeys bool
	var lock custody.Lock
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the roots, or all of the CA with its keys encrypted",
		Long: `export writes the CA's roots in PEM: what others need to verify workloads. With
--with-keys it writes all certificates and private keys in PEM, encrypted by age; nothing
writes a key in clear. A file that is there is not written over; a new one is for its owner
alone (0600).`,
		Example: "  culvert ca export > roots.pem\n  culvert ca export --with-keys --recipient age1… --to ca.age",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&to, "to", "", "`file` to write (default stdout)")
	cmd.Flags().BoolVar(&withKeys, "with-keys", false, "private keys too, encrypted")
	lockFlags(cmd.Flags(), &lock)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !withKeys {
			if cmd.Flags().Changed("recipient") || cmd.Flags().Changed("passphrase-file") {
				return fmt.Errorf("roots are public: --recipient and --passphrase-file are for --with-keys")
			}
			text, err := c.roots(cmd.Context())
			if err != nil {
				return err
			}
			return c.write(to, text)
		}
		if err := lock.Check(); err != nil {
			return err
		}
		_, files, err := c.kept(cmd.Context())
		if err != nil {
			return err
		}
		var all bytes.Buffer
		for _, name := range slices.Sorted(maps.Keys(files)) {
			fmt.Fprintf(&all, "# %s\n%s\n", name, bytes.TrimSpace(files[name]))
		}
		sealed, err := lock.Seal(all.Bytes())
		if err != nil {
			return err
		}
		return c.write(to, sealed)
	}
	return cmd
}

// roots are those of the public places, and of the CA's own where there is none.
func (c *command) roots(ctx context.Context) ([]byte, error) {
	if err := c.from.check(); err != nil {
		return nil, err
	}
	places, err := c.from.public()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, place := range places {
		certs, err := custody.Certificates(ctx, place)
		if err != nil {
			return nil, err
		}
		for _, cert := range certs {
			if cert.Root {
				out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Cert.Raw}))
			}
		}
	}
	if out.Len() == 0 {
		return nil, fmt.Errorf("no root was found in %v", places)
	}
	return out.Bytes(), nil
}

// kept is read where there must be a CA.
func (c *command) kept(ctx context.Context) (custody.Keep, ca.Files, error) {
	keep, files, err := c.read(ctx)
	if err == nil && files == nil {
		err = fmt.Errorf("%s: %w", keep, errNoCA)
	}
	return keep, files, err
}

// write writes to a new file, or to stdout.
func (c *command) write(to string, text []byte) error {
	if to == "" {
		_, err := c.Stdout.Write(text)
		return err
	}
	if err := custody.WriteNew(to, text); err != nil {
		return err
	}
	fmt.Fprintf(c.Stderr, "culvert: wrote %s\n", to)
	return nil
}

func (c *command) caBackup() *cobra.Command {
	var to string
	var lock custody.Lock
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Write all of the CA into one encrypted file",
		Long: `backup writes all files of the CA, with its private keys, into one file that is encrypted
by age, and reads it back before it says that it is done where it can: with --passphrase-file.
ca restore brings it back.`,
		Example: "  culvert ca backup --recipient age1… --to ca.backup",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&to, "to", "", "`file` to write; required")
	_ = cmd.MarkFlagRequired("to") // it was just defined
	lockFlags(cmd.Flags(), &lock)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := lock.Check(); err != nil {
			return err
		}
		keep, files, err := c.kept(cmd.Context())
		if err != nil {
			return err
		}
		archive, err := custody.Pack(files, keep.String(), c.Now())
		if err != nil {
			return err
		}
		sealed, err := lock.Seal(archive)
		if err != nil {
			return err
		}
		if lock.PassphraseFile != "" {
			if opened, err := (custody.Key{PassphraseFile: lock.PassphraseFile}).Open(sealed); err != nil || !bytes.Equal(opened, archive) {
				return fmt.Errorf("the backup cannot be read back: %v", err)
			}
		}
		return c.write(to, sealed)
	}
	return cmd
}

func (c *command) caRestore() *cobra.Command {
	var key custody.Key
	var passphrase string
	var anyway bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Bring a backup back to where no CA is",
		Long: `restore puts the CA of a backup into --ca-dir, or on Kubernetes into its Secret. It
refuses to write over anything: the directory must be empty, the Secret must not exist, and
roots that nodes trust already must be those of the backup. It restores no CA that
culvert-identity would refuse, because it has expired for instance, unless --anyway is given.
Private keys that are encrypted by themselves stay so: --ca-passphrase-file opens them, to
see that they fit.`,
		Example: "  culvert ca restore ca.backup --identity-file key.txt",
		Args:    cobra.ExactArgs(1),
	}
	keyFlags(cmd.Flags(), &key)
	caPassphraseFlag(cmd, &passphrase)
	cmd.Flags().BoolVar(&anyway, "anyway", false, "also a CA that would be refused")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keep, _, err := c.from.keep(cmd.Context())
		if err != nil {
			return err
		}
		sealed, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		archive, err := key.Open(sealed)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		manifest, files, err := custody.Unpack(archive)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if err := restorable(files, passphrase); err != nil && !anyway {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if err := keep.Create(cmd.Context(), files); err != nil {
			return fmt.Errorf("restore %s: %w", args[0], err)
		}
		fmt.Fprintf(c.Stdout, "restored into %s: the CA of %s, as it was at %s\n", keep, manifest.Of, stamp(manifest.Made))
		return nil
	}
	return cmd
}

// restorable is why culvert-identity would refuse the files, or nil.
func restorable(files ca.Files, passphraseFile string) error {
	for _, d := range ca.Lint(files, ca.Options{PassphraseFile: passphraseFile}) {
		switch {
		case d.Severity != ca.Error:
		case ca.NeedsPassphrase(d):
			return hint(fmt.Errorf("whether the CA in it is whole is not known: %w", d), "give its passphrase by --ca-passphrase-file, or restore it unseen by --anyway")
		default:
			return hint(fmt.Errorf("the CA in it would be refused: %w", d), "if it is to be mended where it was, restore it with --anyway, and then see culvert ca recover")
		}
	}
	return nil
}
