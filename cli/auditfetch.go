// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/identity/ledger"
)

// fetched is what of a replica's ledger was copied.
type fetched struct {
	Replica string `json:"replica"`
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"`
	Problem string `json:"problem,omitempty"`
}

func (c *command) auditFetch() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fetch DIR",
		Short: "Copy the ledgers of the CA's replicas into a directory here",
		Long: `fetch asks each replica of the CA for the files of its ledger and writes them to DIR, which
it makes, or which is empty. The other commands of audit read them there. Replicas that
share a directory have the same files: each is copied once.

A ledger goes on while it is copied: the copy ends with a whole line. The exit code is 2 if
a replica, or one of its files, could not be copied.`,
		Example: "  culvert audit fetch ledger-of-today\n  culvert ca export --to roots.pem && culvert audit verify ledger-of-today --roots roots.pem",
		Args:    cobra.ExactArgs(1),
	}
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		source, err := c.from.fleet()
		if err != nil {
			return err
		}
		replicas, err := source.CAs(cmd.Context())
		if err != nil {
			return err
		}
		if len(replicas) == 0 {
			return hint(errors.New("no replica of the CA was found"), "give --ca-admin, or the namespace that they are in by --namespace")
		}
		if err := emptyDir(args[0]); err != nil {
			return err
		}
		var all []fetched
		complete, copied := true, map[string]string{}
		for _, replica := range replicas {
			one := fetchLedger(cmd.Context(), replica, args[0], copied)
			all = append(all, one)
			complete = complete && one.Problem == ""
		}
		return errors.Join(c.sayFetched(out, all), fail(!complete))
	}
	return cmd
}

// emptyDir makes a directory, unless it is there and holds nothing: lines of two meshes are
// not mixed, and no earlier copy is overwritten.
func emptyDir(path string) error {
	if err := os.Mkdir(path, 0o700); !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: copies are not mixed", path)
	}
	return err
}

// fetchLedger copies the chains that a replica has, and that copied does not name yet. All
// of a chain comes from one replica: of two that share a directory, the second would add
// what was written since, and leave out what was written between.
func fetchLedger(ctx context.Context, replica fleet.Target, dir string, copied map[string]string) fetched {
	did := fetched{Replica: replica.Name}
	names, err := replica.LedgerFiles(ctx)
	if err != nil {
		did.Problem = err.Error()
		return did
	}
	for _, name := range names {
		chain := ledger.ChainOf(name)
		if chain == "" {
			did.Problem = fmt.Sprintf("it has a file of the name %q, which is none of a ledger", name)
			continue
		}
		if by, begun := copied[chain]; begun && by != replica.Name {
			continue
		}
		copied[chain] = replica.Name
		size, err := fetchFile(ctx, replica, name, filepath.Join(dir, name))
		if err != nil {
			did.Problem = fmt.Sprintf("%s: %v", name, err)
			continue
		}
		did.Files++
		did.Bytes += size
	}
	return did
}

// fetchFile copies one, up to the end of its last line. Of one that could not be copied
// whole nothing stays.
func fetchFile(ctx context.Context, replica fleet.Target, name, path string) (size int64, err error) {
	var text bytes.Buffer
	if _, err := replica.CopyLedgerFile(ctx, name, &text); err != nil {
		return 0, err
	}
	whole := text.Bytes()
	if strings.HasSuffix(name, ".jsonl") {
		whole = whole[:bytes.LastIndexByte(whole, '\n')+1]
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(whole)
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, errors.Join(err, os.Remove(path))
	}
	return int64(len(whole)), nil
}

func (c *command) sayFetched(out *format, all []fetched) error {
	if out.value == "json" {
		return printJSON(c.Stdout, map[string]any{"replicas": nonNil(all)})
	}
	var rows [][]string
	for _, one := range all {
		rows = append(rows, []string{one.Replica, count(one.Files), strconv.FormatInt(one.Bytes, 10), one.Problem})
	}
	return table(c.Stdout, "REPLICA|FILES|BYTES|PROBLEM", rows)
}
