// SPDX-License-Identifier: Apache-2.0

// Steering measures what steering costs a pod: a connect() that is steered,
// one of a pod that is not enrolled, and one that nftables redirects, each
// against a plain connect() to such a listener; and how long it takes to
// enroll a pod. As root, in the directory bench:
//
//	go run ./steering
//
// prints a table and writes results/steering.json if the run is whole, else
// ../bin/bench/steering.json. The rows take turns
// within one run: on a machine that does other things too, their differences
// and ratios mean something, and the times by themselves little.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-mesh/culvert/bench/host"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == workerCommand {
		os.Exit(workerMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "steering:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var opts options
	flag.IntVar(&opts.labs, "labs", whole.labs, "labs to measure connects in, one after the other")
	flag.IntVar(&opts.repetitions, "repetitions", whole.repetitions, "repetitions of all rows in each lab; the table has their median and quartiles")
	flag.IntVar(&opts.connects, "connects", whole.connects, "connections of each row and family in a repetition")
	flag.IntVar(&opts.pods, "pods", whole.pods, "pods to enroll; 0 leaves that part out")
	flag.StringVar(&opts.out, "json", committed, "file to write; empty: none. The default takes whole runs only, and leaves the others to "+apart)
	flag.Parse()
	if flag.NArg() > 0 || opts.labs < 1 || opts.repetitions < 1 || opts.connects < 1 || opts.pods < 0 {
		return errors.New("usage: steering [-labs N] [-repetitions N] [-connects N] [-pods N] [-json FILE]")
	}

	measured, notes, err := measureConnects(ctx, opts)
	if err != nil {
		return err
	}
	r := report{Host: host.Describe(ctx), Results: summarize(measured), Notes: notes}
	if opts.pods > 0 {
		enrolled, err := measureEnrolment(ctx, opts.pods)
		if err != nil {
			return err
		}
		r.Results = append(r.Results, enrolled...)
	}
	r.Targets = judge(r.Results)
	fmt.Print(r.markdown())
	if opts.out == "" {
		return nil
	}
	return r.write(opts.destination(r.Notes))
}
