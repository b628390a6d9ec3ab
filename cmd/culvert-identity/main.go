// SPDX-License-Identifier: Apache-2.0

// Command culvert-identity is Culvert's certificate authority: nodes ask it for
// the certificates of the ServiceAccounts whose pods run on them.
package main

import (
	"context"
	"os"

	"github.com/culvert-mesh/culvert/cmd/program"
)

func main() {
	p := program.New("culvert-identity", usage)
	var cfg config
	define(p.Flags, &cfg)
	p.Parse(os.Args[1:], cfg.validate)
	cfg.log = p.Log
	p.Run(func(ctx context.Context) error { return run(ctx, cfg) }, func(error) string { return "" })
}
