// SPDX-License-Identifier: Apache-2.0

// Bench sets this mesh's tunnel beside others, on two nodes of test/lab: how
// much it moves, what that costs, what it adds to a round trip. As root, in this
// directory:
//
//	go run . -row bulk,rtt -peer direct,ours,nginx
//	go run . -peer ztunnel=/path/to/istios/ztunnel
//
// prints a table in Markdown and writes it, the numbers as JSON and the plots
// to results if the run is whole, else to ../bin/bench. The peers take turns within each repetition: on a machine
// that does other things too, their ratios mean something, and the numbers by
// themselves little.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/reference"
)

// The program is also what it starts in the pods.
const (
	loadCommand      = "load"
	referenceCommand = "reference"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 1 && args[0] == loadCommand {
		return load.Work(args[1])
	}
	if len(args) > 1 && args[0] == referenceCommand {
		return reference.Run(args[1:])
	}
	opts, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return bench(ctx, opts)
}

// options are the command line.
type options struct {
	rows        []string      // all if empty
	peers       []string      // all if empty
	external    []external    // HBONE proxies given by NAME=COMMAND
	repetitions int           // that count
	duration    time.Duration // of one
	results     string        // directory; empty: none is written
	cold        bool          // nothing is warmed up
}

// external is a proxy that speaks HBONE and is configured as Istio's ztunnel.
type external struct{ name, command string }

// columns are those it makes, two of them together with ours.
func (e external) columns() []string {
	return []string{e.name, e.name + sameNode, ours + into + e.name, e.name + into + ours}
}

// mixes reports whether a column is wanted that ours has one end of.
func (o *options) mixes() bool {
	for _, e := range o.external {
		if o.wants(ours+into+e.name) || o.wants(e.name+into+ours) {
			return true
		}
	}
	return false
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rows := flags.String("row", "", "rows to measure, by commas: "+strings.Join(rowNames(), " ")+" (default all but burst fortio iperf3 cores)")
	peers := flags.String("peer", "", "columns, by commas: "+strings.Join(peerNames, " ")+"; NAME=COMMAND adds a proxy that is configured as Istio's ztunnel (default all, and env ISTIO_ZTUNNEL)")
	flags.IntVar(&o.repetitions, "repetitions", wholeRepetitions, "of each number; the table has their median and quartiles")
	flags.DurationVar(&o.duration, "duration", wholeDuration, "of a repetition")
	flags.StringVar(&o.results, "results", committed, "directory for table, JSON and plots; empty: none. The default takes whole runs only, and leaves the others to "+apart)
	smoke := flags.Bool("smoke", false, "one short repetition of everything, written nowhere: does it run?")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.repetitions < 1 || o.duration <= 0 {
		return o, errors.New("usage: bench [flags], see -h")
	}
	if *smoke {
		o.repetitions, o.duration, o.results, o.cold = 1, 100*time.Millisecond, "", true
	}
	o.rows = fields(*rows)
	for _, name := range o.rows {
		if !known(name, rowNames()) {
			return o, fmt.Errorf("no row %q; there are %s", name, strings.Join(rowNames(), " "))
		}
	}
	return o, o.choosePeers(fields(*peers))
}

// choosePeers tells names from NAME=COMMAND. Without a name, all columns are wanted.
func (o *options) choosePeers(list []string) error {
	if program := os.Getenv("ISTIO_ZTUNNEL"); program != "" {
		o.external = append(o.external, external{istios, program})
	}
	for _, p := range list {
		if name, command, ok := strings.Cut(p, "="); ok {
			o.external = append(o.external, external{name, command})
		}
	}
	for _, p := range list {
		name, _, given := strings.Cut(p, "=")
		if !given && !known(name, peerNames) && !o.isExternal(name) {
			return fmt.Errorf("no column %q; there are %s", name, strings.Join(peerNames, " "))
		}
		if !given {
			o.peers = append(o.peers, name)
		}
	}
	o.joinGiven(list)
	return nil
}

// joinGiven wants what was given as NAME=COMMAND beside names, if they name no column of it.
func (o *options) joinGiven(list []string) {
	if len(o.peers) == 0 {
		return
	}
	for _, p := range list {
		name, command, given := strings.Cut(p, "=")
		if given && !slices.ContainsFunc(external{name, command}.columns(), o.wants) {
			o.peers = append(o.peers, name)
		}
	}
}

func (o *options) isExternal(name string) bool {
	for _, e := range o.external {
		if known(name, e.columns()) {
			return true
		}
	}
	return false
}

// wants reports whether a column is asked for.
func (o *options) wants(peer string) bool { return len(o.peers) == 0 || known(peer, o.peers) }

// fields are parted by commas: a command may hold spaces.
func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func known(name string, names []string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}
