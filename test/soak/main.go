// SPDX-License-Identifier: Apache-2.0

// Soak has certificates of 25 s, the shortest there are, replaced again and again
// between two real nodes, and the issuer that signs them too, while apps open connections
// all the time:
//
//	app → ztunnel → mutual TLS → ztunnel → app, both ways, and culvert-identity beside
//
// No connection may fail, one that is open must live through all of it, and no
// certificate may ever be other than valid. As root:
//
//	go run ./test/soak -time 10m -rate 500
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

	"github.com/culvert-mesh/culvert/test/lab"
)

func main() {
	length := flag.Duration("time", 90*time.Second, "how long connections begin")
	rate := flag.Int("rate", 500, "new connections per second, of both nodes together")
	ttl := flag.Duration("ttl", 25*time.Second, "lifetime of certificates")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *length, *rate, *ttl); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, length time.Duration, rate int, ttl time.Duration) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and loads BPF: run it as root")
	}
	fmt.Printf("soak: %v of %d connections/s, certificates of %v\n", length, rate, ttl)
	l, err := lab.New(ctx, lab.Options{TTL: ttl})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	w := &world{lab: l, rate: rate, ttl: ttl, seen: map[string]*identity{}, signers: map[string]bool{}}
	if err := w.cast(ctx); err != nil {
		return err
	}
	if err := w.soak(ctx, length); err != nil {
		return err
	}
	return w.verdict(ctx)
}
