// SPDX-License-Identifier: Apache-2.0

// Attacks measures what a pod feels of those that are done to its neighbour, or
// to the way that it shares: the p99 of its round trip and of its new connections,
// alone and beside each attack. As root:
//
//	make bench-attacks BEFORE=18472f9
//
// measures the tree and, before it, an older commit, and puts the table between
// the markers in docs/security.md. With -noise it is a noisy pod beside a quiet one.
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
	doc := flag.String("doc", "../docs/security.md", "file whose tables are replaced; empty: none")
	rounds := flag.Int("rounds", 3, "measurements of each noise")
	isNoise := flag.Bool("noise", false, "what a quiet pod feels of a noisy one, and no attacks")
	isSmoke := flag.Bool("smoke", false, "every attack and noise for a moment, written nowhere: does it run?")
	flag.Parse()
	if flag.NArg() > 0 || *duration <= 0 || *rounds <= 0 {
		return errors.New("usage: attacks [-before COMMIT] [-duration D] [-doc FILE] [-noise [-rounds N]] | -smoke")
	}
	if *isSmoke {
		return smoke(ctx)
	}
	old, remove, err := buildOld(ctx, *before)
	if err != nil {
		return err
	}
	var table interface{ markdown() string }
	markers := attackMarkers
	if *isNoise {
		markers = noiseMarkers
		table, err = listenAll(ctx, quiet{before: *before, duration: *duration, rounds: *rounds}, old)
	} else {
		table, err = attackAll(ctx, report{before: *before, duration: *duration}, old)
	}
	if err = errors.Join(err, remove()); err != nil {
		return err
	}
	fmt.Print(table.markdown())
	if *doc == "" {
		return nil
	}
	return markers.replaceIn(*doc, table.markdown())
}

// attackAll measures both builds.
func attackAll(ctx context.Context, r report, old string) (report, error) {
	var err error
	if old != "" {
		if r.old, err = measure(ctx, old, r.duration); err != nil {
			return r, err
		}
	}
	r.now, err = measure(ctx, "", r.duration)
	r.host = host.Describe(ctx)
	return r, err
}
