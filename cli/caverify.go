// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// defect is what the linter says, for programs.
type defect struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	File     string `json:"file,omitempty"`
	What     string `json:"what"`
	Follows  string `json:"follows"`
	Mend     string `json:"mend"`
}

func (c *command) caVerify() *cobra.Command {
	var secret, domain, passphrase string
	var strict bool
	cmd := &cobra.Command{
		Use:   "verify [DIR | FILE…]",
		Short: "Say all that is wrong with a CA's certificates and keys",
		Long: `verify examines a CA as culvert-identity would that is given it, and says all that is
wrong: what, in which file, what comes of it, and what to do. It takes a directory, files,
or a Secret (--secret); without any of them the mesh's own CA. Layouts of Culvert, Istio,
Dapr, Linkerd and cert-manager are known by the names of the files. Nothing is changed, and
no key is printed.

The exit code is 2 if the CA would be refused, and 1 with --strict if there are warnings.`,
		Example: "  culvert ca verify ./pki\n  culvert ca verify --secret istio-system/cacerts",
	}
	out := formats(cmd, "text", "json")
	cmd.Flags().StringVar(&secret, "secret", "", "`namespace/name` of a Secret")
	cmd.Flags().StringVar(&domain, "trust-domain", "", "trust `domain` that the CA is for (default what its certificates name)")
	cmd.Flags().StringVar(&passphrase, "passphrase-file", "", "`file` whose first line opens encrypted private keys")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 1 if there are warnings")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts := ca.Options{PassphraseFile: passphrase}
		if domain != "" {
			var err error
			if opts.TrustDomain, err = spiffeid.TrustDomainFromString(domain); err != nil {
				return fmt.Errorf("--trust-domain: %v", err)
			}
		}
		where, files, found, err := c.examined(cmd.Context(), args, secret)
		if err != nil {
			return err
		}
		found = append(found, ca.Lint(files, opts)...)
		slices.SortStableFunc(found, func(a, b ca.Defect) int { return int(b.Severity) - int(a.Severity) })
		return c.sayDefects(out, where, files, found, strict)
	}
	return cmd
}

// examined returns the files that the arguments name, and what is wrong with their modes.
func (c *command) examined(ctx context.Context, args []string, secret string) (where string, files ca.Files, found []ca.Defect, err error) {
	switch {
	case secret != "" && len(args) > 0:
		return "", nil, nil, errors.New("--secret and files: give one of both")
	case secret != "":
		namespace, name, ok := strings.Cut(secret, "/")
		if !ok || namespace == "" || name == "" {
			return "", nil, nil, fmt.Errorf("--secret %q: want namespace/name", secret)
		}
		cluster, err := c.from.cluster()
		if err != nil {
			return "", nil, nil, err
		}
		return c.placed(ctx, custody.Secret{API: cluster.API, Namespace: namespace, Name: name})
	case len(args) == 0:
		keep, _, err := c.from.keep(ctx)
		if err != nil {
			return "", nil, nil, err
		}
		return c.placed(ctx, keep)
	}
	if stat, err := os.Stat(args[0]); err == nil && stat.IsDir() {
		if len(args) > 1 {
			return "", nil, nil, errors.New("want one directory, or files")
		}
		return c.placed(ctx, custody.Directory(args[0]))
	}
	files = ca.Files{}
	for _, path := range args {
		text, err := custody.ReadFile(path)
		if err != nil {
			return "", nil, nil, err
		}
		name := filepath.Base(path)
		if _, twice := files[name]; twice {
			return "", nil, nil, fmt.Errorf("two files are named %s: a CA has each name once", name)
		}
		files[name] = text
	}
	return strings.Join(args, " "), files, nil, nil
}

// placed reads a place; of a directory it looks at the modes, too.
func (c *command) placed(ctx context.Context, place custody.Place) (where string, files ca.Files, found []ca.Defect, err error) {
	files, err = place.Read(ctx)
	if err == nil && files == nil {
		err = errNoCA
	}
	if err != nil {
		return "", nil, nil, fmt.Errorf("%s: %w", place, err)
	}
	if dir, ok := place.(custody.Directory); ok {
		found, err = ca.LintModes(string(dir))
	}
	return place.String(), files, found, err
}

func (c *command) sayDefects(out *format, where string, files ca.Files, found []ca.Defect, strict bool) error {
	layout, _, _ := ca.Detect(slices.Collect(maps.Keys(files))) // what is wrong with it is among the defects
	all, refused := []defect{}, false
	for _, d := range found {
		refused = refused || d.Severity == ca.Error
		all = append(all, defect{d.Code, d.Severity.String(), d.File, d.What, d.Follows, d.Mend})
	}
	end := fail(refused)
	if !refused && strict && len(all) > 0 {
		end = &ended{exitWarnings}
	}
	if out.value == "json" {
		return errors.Join(printJSON(c.Stdout, map[string]any{"where": where, "layout": layout, "defects": all, "ok": !refused}), end)
	}
	fmt.Fprintf(c.Stdout, "%s: layout %s\n", where, orDash(string(layout)))
	roots := files.Roots()
	for _, root := range roots {
		if by := ca.Renewed(root, roots); by != nil {
			fmt.Fprintf(c.Stdout, "the root %s of serial %s, until %s, is renewed by that of serial %s, until %s: name and key are the same\n",
				printable(name(root)), root.SerialNumber.Text(16), stamp(root.NotAfter), by.SerialNumber.Text(16), stamp(by.NotAfter))
		}
	}
	for _, d := range all {
		d.print(c.Stdout)
	}
	switch {
	case refused:
		fmt.Fprintln(c.Stdout, "\nThe CA would be refused.")
	case len(all) > 0:
		fmt.Fprintln(c.Stdout, "\nThe CA can be used; see the warnings.")
	default:
		fmt.Fprintln(c.Stdout, "The CA can be used: nothing is wrong with it.")
	}
	return end
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (d defect) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s %s: %s\n", d.Severity, d.Code, printable(d.What))
	if d.Follows != "" {
		fmt.Fprintf(w, "  follows: %s\n", printable(d.Follows))
	}
	if d.Mend != "" {
		fmt.Fprintf(w, "  mend:    %s\n", printable(d.Mend))
	}
}
