// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// recordKey is the annotation of the ConfigMap of roots in which the CA keeps its
// record, as identity/ca/cluster writes it.
const recordKey = "culvert.dev/bundle"

func (c *command) bundleHistory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show the bundle's generation, and which roots were dropped before it",
		Long: `history shows what the CA keeps of its bundle: the number of the set that is published, its
roots, and the roots that were dropped from former sets, the latest last. Roots are named by
the SHA-256 of the certificate.`,
		Example: "  culvert bundle history",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		where, text, err := c.record(cmd)
		if err != nil {
			return err
		}
		record, err := ca.ParseRecord(text)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if record.Generation == 0 {
			return fmt.Errorf("%s: the CA has kept no record there yet", where)
		}
		if out.value == "json" {
			return printJSON(c.Stdout, map[string]any{"where": where, "generation": record.Generation, "roots": nonNil(record.Roots), "dropped": nonNil(record.Dropped)})
		}
		var rows [][]string
		for _, root := range record.Dropped {
			rows = append(rows, []string{fmt.Sprintf("before %d", record.Generation), "dropped", root})
		}
		for _, root := range record.Roots {
			rows = append(rows, []string{fmt.Sprint(record.Generation), "trusted", root})
		}
		return table(c.Stdout, "GENERATION|ROOT IS|SHA256", rows)
	}
	return cmd
}

// record is where the CA keeps its record, and the text of that.
func (c *command) record(cmd *cobra.Command) (where string, text []byte, err error) {
	if err := c.from.check(); err != nil {
		return "", nil, err
	}
	if c.from.machine() {
		keep, files, err := c.read(cmd.Context())
		if err != nil {
			return "", nil, err
		}
		return keep.String(), files[ca.BundleFile], nil
	}
	cluster, err := c.from.cluster()
	if err != nil {
		return "", nil, err
	}
	roots := custody.Roots{API: cluster.API, Namespace: c.from.namespace, Name: rootsName}
	found, err := cluster.API.ConfigMap(cmd.Context(), roots.Namespace, roots.Name)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", roots, err)
	}
	return roots.String(), []byte(found.Annotations[recordKey]), nil
}
