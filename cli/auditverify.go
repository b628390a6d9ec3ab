// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity/ledger"
)

func (c *command) auditVerify() *cobra.Command {
	var roots []string
	var anchors string
	var hashesOnly bool
	cmd := &cobra.Command{
		Use:   "verify [DIR | FILE…]",
		Short: "Verify that no line of the CA's ledger was changed, moved or removed",
		Long: `verify reads the CA's ledger, of all replicas that wrote into the directory, and names each
line that was changed, moved, put in or removed, by file and number. Each line has the hash
of the one before; signed checkpoints say how far a chain had come, by a key that the mesh's
roots vouch for. Give them by --roots, or by --ca-dir; former roots too, if lines are older
than the present ones.

A chain is proved up to its last signature. An intruder who is root at the CA may have put
an older end of the ledger back, with the head that belonged to it: --anchors has chains go
at least as far as checkpoints that were kept elsewhere: those that the CA keeps in a
ConfigMap, or the output of an earlier verify -o json. Root at the CA may change the
ConfigMap, too: keep one in a place of your own. Their signatures are not verified.

The exit code is 2 if anything is wrong, or if what is there is not signed.`,
		Example: "  culvert ca export --to roots.pem\n  culvert audit verify /var/lib/culvert/ledger --roots roots.pem\n  kubectl -n culvert-system get configmap culvert-ledger-checkpoint -o json > anchors.json\n  culvert audit fetch ledger-of-today && culvert audit verify ledger-of-today --roots roots.pem --anchors anchors.json",
	}
	out := formats(cmd, "text", "json")
	cmd.Flags().StringSliceVar(&roots, "roots", nil, "`files` of the roots that vouch for checkpoints, in PEM")
	cmd.Flags().StringVar(&anchors, "anchors", "", "`file` of checkpoints that were kept elsewhere, in JSON, one after the other")
	cmd.Flags().BoolVar(&hashesOnly, "hashes-only", false, "ask for no signature: whoever can write the files could have made all of them")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q, err := ledgerAt(args)
		if err != nil {
			return err
		}
		if !hashesOnly {
			if q.Roots, err = c.rootsOf(cmd.Context(), roots); err != nil {
				return err
			}
			if len(q.Roots) == 0 {
				return hint(errors.New("which roots vouch for the ledger? Give --roots, --ca-dir or --hashes-only"), "culvert ca export --to roots.pem writes those of a CA")
			}
		}
		if q.Anchors, err = readAnchors(anchors); err != nil {
			return err
		}
		report, err := examine(q, nil)
		if err != nil {
			return err
		}
		return c.sayLedger(out, report, q.Roots != nil)
	}
	return cmd
}

// readAnchors reads checkpoints, what verify -o json printed, or a ConfigMap of -ledger-configmap.
func readAnchors(path string) (all []ledger.Checkpoint, err error) {
	if path == "" {
		return nil, nil
	}
	text, err := custody.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--anchors: %w", err)
	}
	for in := json.NewDecoder(bytes.NewReader(text)); in.More(); {
		var one struct {
			ledger.Checkpoint
			Data   map[string]string `json:"data"` // of a ConfigMap
			Chains []struct {
				Replica string `json:"replica"`
				ID      string `json:"chain"`
				Last    uint64 `json:"last"`
				Hash    string `json:"hash"`
			} `json:"chains"`
		}
		if err := in.Decode(&one); err != nil {
			return nil, fmt.Errorf("--anchors: %s: %v", path, err)
		}
		kept, err := ledger.ReadAnchors(one.Data)
		if err != nil {
			return nil, fmt.Errorf("--anchors: %s: %w", path, err)
		}
		all = append(all, kept...)
		if one.Replica != "" {
			all = append(all, one.Checkpoint)
		}
		for _, chain := range one.Chains {
			all = append(all, ledger.Checkpoint{Replica: chain.Replica, Chain: chain.ID, Seq: chain.Last, Hash: chain.Hash})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("--anchors: %s holds no checkpoint", path)
	}
	return all, nil
}

func (c *command) sayLedger(out *format, report *ledger.Report, signed bool) error {
	unsigned := 0
	for _, chain := range report.Chains {
		if signed && chain.Lines > 0 && (chain.Signed == 0 || chain.Signed < chain.Promised) {
			unsigned++
		}
	}
	whole := len(report.Faults) == 0
	end := fail(!whole || unsigned > 0)
	if out.value == "json" {
		return errors.Join(printJSON(c.Stdout, struct {
			*ledger.Report
			Whole  bool `json:"whole"`
			Signed bool `json:"signed"`
		}{report, whole, signed && unsigned == 0}), end)
	}
	var rows [][]string
	for _, chain := range report.Chains {
		vouched := "nobody asked"
		if signed {
			vouched = strconv.FormatUint(chain.Signed, 10)
		}
		rows = append(rows, []string{chain.Replica, count(chain.Files), strconv.FormatUint(chain.Lines, 10), strconv.FormatUint(chain.First, 10),
			strconv.FormatUint(chain.Last, 10), vouched, stamp(chain.Since), stamp(chain.Until), strconv.FormatUint(chain.Lost, 10)})
	}
	if err := table(c.Stdout, "REPLICA|FILES|LINES|FIRST|LAST|SIGNED TO|SINCE|UNTIL|LOST", rows); err != nil {
		return err
	}
	c.sayFaults(report)
	switch {
	case !whole:
		fmt.Fprintln(c.Stdout, "\nThe ledger is not whole.")
	case unsigned > 0:
		fmt.Fprintln(c.Stdout, "\nNo line is missing or changed as far as hashes tell, but the end is not signed: it could have been made anew.")
	case !signed:
		fmt.Fprintln(c.Stdout, "\nNo line is missing or changed as far as hashes tell. Nobody's signature was asked for.")
	default:
		fmt.Fprintln(c.Stdout, "\nverified: no line is missing or changed up to the last signature of each chain")
	}
	return end
}

func (c *command) sayFaults(report *ledger.Report) {
	for _, chain := range report.Chains {
		for _, note := range chain.Notes {
			fmt.Fprintf(c.Stdout, "note: %s: %s\n", printable(chain.Replica), printable(note))
		}
	}
	for _, fault := range report.Faults {
		fmt.Fprintf(c.Stdout, "fault: %s\n", printable(fault.String()))
	}
	if report.Dropped > 0 {
		fmt.Fprintf(c.Stdout, "and %d more\n", report.Dropped)
	}
}
