// SPDX-License-Identifier: Apache-2.0

// Demo shows, on one machine and as root, what Culvert does: two nodes, a CA
// and ordinary pods, in five steps. Every claim it prints it has checked; the
// first that is not true ends it with exit code 1.
//
// On a terminal, and with KEEP=1 in the environment, all of it stays until a signal, with
// the map of the mesh.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := newPrinter(os.Stdout)
	if err := run(ctx, out, out.terminal || os.Getenv("KEEP") != ""); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo failed: %v\n", err)
		if errors.Is(err, os.ErrPermission) {
			fmt.Fprintln(os.Stderr, "demo: hint: it needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF: containers have them only if privileged")
		}
		os.Exit(1)
	}
	fmt.Println("\ndemo passed")
}

func run(ctx context.Context, out *printer, keep bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and loads BPF: run it as root")
	}
	start := time.Now()
	out.title("Culvert: mutual TLS between pods, because their namespace got a label")
	l, err := lab.New(ctx, lab.Options{})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := l.Close(); err == nil {
			err = cerr
		}
	}()
	story := &story{out: out, lab: l}
	defer func() {
		if story.endMap != nil {
			story.endMap()
		}
	}()
	if err = story.tell(ctx); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	} else if err != nil {
		out.bad(err)
		fmt.Fprintf(os.Stderr, "\n%s\n", l.Logs())
	}
	out.note("%.0f s", time.Since(start).Seconds())
	if keep && ctx.Err() == nil && err == nil {
		story.invite()
		story.openMap()
		<-ctx.Done()
	}
	return err
}
