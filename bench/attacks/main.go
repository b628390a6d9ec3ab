// SPDX-License-Identifier: Apache-2.0

// Attacks measures what a pod feels of those that are done to its neighbour, or
// to the way that it shares: the p99 of its round trip and of its new connections,
// alone and beside each attack. As root:
//
//	make bench-attacks BEFORE=18472f9
//
// measures the tree and, before it, an older commit, and puts the table between
// the markers in docs/security.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/bench/host"
	"github.com/culvert-mesh/culvert/bench/load"
)

// loadCommand is what the program is in the pods.
const loadCommand = "load"

func main() {
	if len(os.Args) == 3 && os.Args[1] == loadCommand {
		exit(load.Work(os.Args[2]))
	}
	if len(os.Args) == 3 && os.Args[1] == boundCommand {
		exit(bound(os.Args[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "attacks:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context) error {
	before := flag.String("before", "", "commit whose ztunnel is measured too; none")
	duration := flag.Duration("duration", 5*time.Second, "of one measurement of the victim")
	doc := flag.String("doc", "../docs/security.md", "file whose table is replaced; empty: none")
	isSmoke := flag.Bool("smoke", false, "every attack for a moment, written nowhere: does it run?")
	flag.Parse()
	if flag.NArg() > 0 || *duration <= 0 {
		return errors.New("usage: attacks [-before COMMIT] [-duration D] [-doc FILE] | -smoke")
	}
	if *isSmoke {
		return smoke(ctx)
	}
	r := report{before: *before, duration: *duration}
	if *before != "" {
		program, remove, err := buildOld(ctx, *before)
		if err != nil {
			return err
		}
		r.old, err = measure(ctx, program, *duration)
		if err = errors.Join(err, remove()); err != nil {
			return err
		}
	}
	var err error
	if r.now, err = measure(ctx, "", *duration); err != nil {
		return err
	}
	r.host = host.Describe(ctx)
	fmt.Print(r.markdown())
	if *doc == "" {
		return nil
	}
	return r.replaceIn(*doc)
}
