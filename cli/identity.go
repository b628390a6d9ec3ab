// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/identity/process"
)

func (c *command) identity() *cobra.Command {
	return noun("identity", "Keep the identity of a process outside Kubernetes", c.identityRun())
}

func (c *command) identityRun() *cobra.Command {
	var cfg process.Config
	var ttl lifetime
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Join by a token, and keep certificate, key and roots fresh in files",
		Long: `run joins the mesh by a join token, once, and then renews by the certificate that it got,
until it is stopped. In --out it keeps svid.pem, svid.key and bundle.pem, for their owner
alone. All three change in one step; a program that uses them reads them again for each
connection, or when they change.

It ends with an error if only an operator can help: the token is worth nothing, the
process was revoked, or the certificate has expired and there is no new token.`,
		Example: "  culvert identity run --ca ca.example:15012 --ca-root root.pem --join-token token --out /run/identity",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.ServerName, "ca-server-name", "", "DNS `name` or address in the CA's certificate (default the host of --ca)")
	flags.StringVar(&cfg.RootFile, "ca-root", "", "`file` with the CA's roots in PEM; required")
	flags.StringVar(&cfg.TokenFile, "join-token", "", "`file` with a join token; needed until the process has joined")
	flags.StringVar(&cfg.Dir, "out", "", "`directory` to keep the files in; required")
	flags.Var(&ttl, "ttl", "`duration` of a certificate to ask for, 25s to 24h (default what the CA gives)")
	_ = cmd.MarkFlagRequired("ca-root") // they were just defined
	_ = cmd.MarkFlagRequired("out")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg.CA, cfg.TTL = c.from.ca, time.Duration(ttl)
		cfg.Log = slog.New(slog.NewTextHandler(c.Stderr, nil))
		return process.Run(cmd.Context(), cfg)
	}
	return cmd
}
