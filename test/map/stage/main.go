// SPDX-License-Identifier: Apache-2.0

// Stage is what the browser's test of the map plays on: `stage lab` is two nodes with pods
// that do what lines on its standard input say, as root; `stage fixture` is ztunnels that
// are none, of a mesh as large as is wanted.
//
// It answers each line by one on its standard output, first of all with the addresses at
// which the nodes' ztunnels can be asked. It ends when its standard input does.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// play is what a stage can do.
type play interface {
	do(ctx context.Context, line string) (string, error)
	close() error
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("stage", flag.ExitOnError)
	workloads := flags.Int("workloads", 300, "of the fixture")
	edges := flags.Int("edges", 2000, "of the fixture")
	if len(args) == 0 {
		return fmt.Errorf("want lab or fixture")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	var p play
	var addresses []string
	switch args[0] {
	case "lab":
		p, addresses, err = newShop(ctx)
	case "fixture":
		p, addresses, err = newFixture(*workloads, *edges)
	default:
		err = fmt.Errorf("%q: want lab or fixture", args[0])
	}
	if err != nil {
		return err
	}
	defer func() {
		if cerr := p.close(); err == nil {
			err = cerr
		}
	}()
	fmt.Println(strings.Join(addresses, ","))
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	for {
		select {
		case line, more := <-lines:
			if !more {
				return nil
			}
			answer, err := p.do(ctx, line)
			if err != nil {
				answer = "error: " + strings.ReplaceAll(err.Error(), "\n", "; ")
			}
			fmt.Println(answer)
		case <-ctx.Done():
			return nil
		}
	}
}
