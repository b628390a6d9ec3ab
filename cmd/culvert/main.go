// SPDX-License-Identifier: Apache-2.0

// Command culvert is the operator's: it looks after a mesh's certificate authority, its
// certificates and its nodes. Under the name kubectl-culvert it is kubectl's plugin.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-mesh/culvert/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, cli.Process{Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}))
}
