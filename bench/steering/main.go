// SPDX-License-Identifier: Apache-2.0

// Steering measures what steering costs a pod: a connect() that is steered,
// one of a pod that is not enrolled, and one that nftables redirects, each
// against a plain connect() to such a listener; and how long it takes to
// enroll a pod. As root, in the directory bench:
//
//	go run ./steering
//
// prints a table and writes results/steering.json. The rows take turns
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
	flag.IntVar(&opts.labs, "labs", 3, "labs to measure connects in, one after the other")
	flag.IntVar(&opts.repetitions, "repetitions", 7, "repetitions of all rows in each lab; the table has their median and quartiles")
	flag.IntVar(&opts.connects, "connects", 2000, "connections of each row and family in a repetition")
	pods := flag.Int("pods", 100, "pods to enroll; 0 leaves that part out")
	out := flag.String("json", "results/steering.json", "file to write; empty: none")
	flag.Parse()
	if flag.NArg() > 0 || opts.labs < 1 || opts.repetitions < 1 || opts.connects < 1 || *pods < 0 {
		return errors.New("usage: steering [-labs N] [-repetitions N] [-connects N] [-pods N] [-json FILE]")
	}

	measured, notes, err := measureConnects(ctx, opts)
	if err != nil {
		return err
	}
	r := report{Host: host.Describe(ctx), Results: summarize(measured), Notes: notes}
	if *pods > 0 {
		enrolled, err := measureEnrolment(ctx, *pods)
		if err != nil {
			return err
		}
		r.Results = append(r.Results, enrolled...)
	}
	r.Targets = judge(r.Results)
	fmt.Print(r.markdown())
	if *out == "" {
		return nil
	}
	return r.write(*out)
}
