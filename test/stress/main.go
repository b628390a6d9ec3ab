// SPDX-License-Identifier: Apache-2.0

// Stress has the apps of two nodes talk through all that carries them, pool,
// tunnel, listener, proxies and certificates, while whatever can go wrong does:
//
//	app → proxy.Outbound → hbone.Pool → path → hbone.Listener → proxy.Inbound → app
//
// or, as between two pods of one node, beside the tunnel that goes over the path:
//
//	app → proxy.Outbound → proxy.Neighbour → app
//
// The path is one of packets between two network namespaces, slow, long, lossy
// or cut (path.go, weather.go). The apps read slowly or not, reset, close early,
// and know what they should hear (plan.go, app.go). Roots are replaced meanwhile (roots.go). What must be true of every
// connection stands in judge.go. As root:
//
//	go run -race ./test/stress -time 10m -seed 7
//
// The seed is that of the plans and of the weather. What the kernel and the
// scheduler do differs from run to run.
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

	"github.com/culvert-mesh/culvert/test/env"
)

func main() {
	length := flag.Duration("time", time.Minute, "how long talks begin")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of plans and weather")
	flag.Parse()
	fmt.Printf("stress: -time %v -seed %d\n", *length, *seed)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(env.CheckLeaks(session{ctx, *length, *seed}))
}

// session is one run.
type session struct {
	ctx    context.Context
	length time.Duration
	seed   uint64
}

// Run returns the code to exit with.
func (s session) Run() int {
	w, err := newWorld(s.seed)
	if err == nil {
		w.run(s.ctx, s.length)
		err = errors.Join(w.close(), w.verdict(), w.ca.rootsVerdict(s.length))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
		return 1
	}
	return 0
}
