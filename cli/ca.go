// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity/ca"
)

func (c *command) authority() *cobra.Command {
	return noun("ca", "Look after the mesh's certificate authority", c.caShow(), c.caVerify(), c.caInit(), c.caRenewIssuer(), c.caRenewRoot(), c.caRotateRoot(), c.caTaint(), c.caSigner(), c.caExport(), c.caBackup(), c.caRestore(), c.caRecover(), c.outageBudget())
}

// Roles of a CA's certificates.
const (
	roleRoot         = "root"
	roleFormer       = "former root" // renewed: another certificate of its name and key ends later
	roleIntermediate = "intermediate"
	roleIssuer       = "issuer" // its private key is there
	roleOther        = "other"  // no authority
)

// part is a certificate of a CA, with what belongs to it.
type part struct {
	Role string    `json:"role"`
	File string    `json:"file"`
	Key  string    `json:"privateKey"` // in which file, or why there is none
	Cert described `json:"certificate"`
	Left seconds   `json:"leftSeconds"`

	custody.Certificate `json:"-"`
}

// keysElsewhere is said of a root without its private key: as it should be.
const keysElsewhere = "not here"

// partsOf says what the certificates among a CA's files are. A key that is encrypted, and is
// not opened by the passphrase in a file, is taken for what its name says.
func partsOf(files ca.Files, passphraseFile string, now time.Time) (all []part) {
	keys := custody.Keys(files, passphraseFile)
	issuerFile, issuerKey := files.Issuer()
	issuerSeen := false
	for _, cert := range custody.Parse(files, "") {
		p := part{Role: roleOther, File: cert.File, Key: keysElsewhere, Cert: describe1(cert), Left: seconds(cert.Cert.NotAfter.Sub(now)), Certificate: cert}
		if cert.Cert.IsCA {
			p.Role = roleIntermediate
		}
		for _, key := range keys {
			if key.Fits(cert.Cert) {
				p.Key = key.File
				if key.By != "" {
					p.Key = key.By
				}
				p.Role = roleIssuer
			}
		}
		if cert.File == issuerFile && !issuerSeen {
			issuerSeen = true
			if p.Key == keysElsewhere && sealed(keys, issuerKey) {
				p.Key, p.Role = issuerKey+encryptedMark, roleIssuer
			}
		}
		if cert.Root {
			p.Role = roleRoot
			if ca.Renewed(cert.Cert, files.Roots()) != nil {
				p.Role = roleFormer
			}
			if p.Key == keysElsewhere && sealed(keys, ca.RootKeyFile) {
				p.Key = ca.RootKeyFile + encryptedMark
			}
		}
		all = append(all, p)
	}
	order := []string{roleRoot, roleFormer, roleIntermediate, roleIssuer, roleOther}
	slices.SortStableFunc(all, func(a, b part) int { return cmp.Compare(slices.Index(order, a.Role), slices.Index(order, b.Role)) })
	return all
}

// encryptedMark is said of a key whose file alone is known.
const encryptedMark = " (encrypted)"

func sealed(keys []custody.PrivateKey, file string) bool {
	return slices.ContainsFunc(keys, func(k custody.PrivateKey) bool { return k.File == file && k.Sealed() })
}

// caPassphraseFlag is of commands that need to open the CA's private keys.
func caPassphraseFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "ca-passphrase-file", "", "`file` whose one line opens private keys of the CA that are encrypted")
}

func describe1(c custody.Certificate) described { return describe(certsOf(c))[0] }

func (c *command) caShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the CA: where it is, its certificates, and which private keys are there",
		Long: `show prints where the CA's files are, its certificates from the root to the issuer with
serial numbers, validity and fingerprints, which private keys lie beside them, and, if the
CA answers, which generation of the bundle nodes get. While a re-key of the root is under way
(ca rotate-root), it says in which state that is and for whom it waits. It prints no key.

On Kubernetes it reads the Secret: it needs the right to.`,
		Example: "  culvert ca show\n  culvert ca show --ca-dir /var/lib/culvert/ca",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		keep, files, err := c.read(cmd.Context())
		if err != nil {
			return err
		}
		if files == nil {
			return hint(fmt.Errorf("%s: there is no CA", keep), "culvert ca recover says what that means")
		}
		parts := partsOf(files, "", c.Now())
		bundle := c.bundleNow(cmd.Context())
		rotating := c.storedRekey(cmd.Context(), keep, files)
		if out.value == "json" {
			return printJSON(c.Stdout, map[string]any{"where": keep.String(), "certificates": nonNil(parts), "privateKeys": keyFiles(files), "bundle": bundle, "rekey": rotating})
		}
		fmt.Fprintf(c.Stdout, "where: %s\n", keep)
		if bundle != nil {
			fmt.Fprintf(c.Stdout, "bundle: %s\n", bundle)
		}
		c.printRekey(rotating)
		fmt.Fprintln(c.Stdout)
		var rows [][]string
		for _, p := range parts {
			rows = append(rows, []string{p.Role, p.File, name(p.Certificate.Cert), p.Cert.Serial, p.Cert.NotBefore, p.Cert.NotAfter, long(time.Duration(p.Left)), p.Cert.Key, p.Key, p.Cert.Fingerprint})
		}
		return table(c.Stdout, "ROLE|FILE|NAME|SERIAL|NOT BEFORE|NOT AFTER|LEFT|KEY|PRIVATE KEY|SHA256", rows)
	}
	return cmd
}

// keyFiles are the names of files with private keys, and how it stands with each.
func keyFiles(files ca.Files) map[string]string {
	all := map[string]string{}
	for _, key := range custody.Keys(files, "") {
		switch {
		case key.Encrypted:
			all[key.File] = "encrypted"
		case key.By != "":
			all[key.File] = "of the signer " + key.By
		case key.Problem != "":
			all[key.File] = key.Problem
		default:
			all[key.File] = "in clear"
		}
	}
	return all
}

// read returns what is in the CA's place; nil files: nothing.
func (c *command) read(ctx context.Context) (custody.Keep, ca.Files, error) {
	keep, _, err := c.from.keep(ctx)
	if err != nil {
		return nil, nil, err
	}
	files, err := keep.Read(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keep, err)
	}
	return keep, files, nil
}

// bundleNow is what the first replica that answers gives to nodes, or nil.
func (c *command) bundleNow(ctx context.Context) *fleet.Bundle {
	source, err := c.from.fleet()
	if err != nil {
		return nil
	}
	cas, err := fleet.CAs(ctx, source)
	if err != nil {
		return nil // show is of the CA's place; check says who does not answer
	}
	for _, ca := range cas {
		if ca.State != nil {
			return &ca.State.Bundle
		}
	}
	return nil
}

var errNoCA = errors.New("there is no CA")
