// SPDX-License-Identifier: Apache-2.0

// App is what the lab's pods run: ordinary servers and clients, and the agent
// through which a test opens sockets in a pod.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab/agent"
)

const usage = `usage: app COMMAND

  agent                             do what JSON lines on standard input say
  serve [-kind echo] ADDR...        serve until a signal; kinds: echo speak-first
                                    sink discard source reset hold http
  send ADDR TEXT                    connect, send a line, print what comes back
  enter -netns PATH -cgroup DIR [--] COMMAND...
                                    run a command as a process of a pod
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch args[0] {
	case "agent":
		raiseFileLimit()
		return agent.Serve(os.Stdin, os.Stdout)
	case "serve":
		return serve(ctx, args[1:])
	case "send":
		return send(ctx, args[1:])
	case "enter":
		return enter(args[1:])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// raiseFileLimit lets one agent hold ten thousand connections; if it may not,
// the connections that do not fit fail with EMFILE, which says enough.
func raiseFileLimit() {
	const files = 1 << 19
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
}

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	kind := flags.String("kind", string(agent.Echo), "what to do with a connection")
	size := flags.Int64("size", 1<<20, "bytes a source sends")
	_ = flags.Parse(args)
	if flags.NArg() == 0 {
		return errors.New("serve: name an address, as [::]:8080")
	}
	failed := make(chan error, flags.NArg())
	for _, arg := range flags.Args() {
		addr, err := netip.ParseAddrPort(arg)
		if err != nil {
			return err
		}
		spec := agent.Server{Socket: agent.Socket{Network: "tcp", Bind: addr}, Kind: agent.Kind(*kind), Size: *size}
		go func() {
			failed <- agent.ServeUntil(ctx, spec,
				func(at netip.AddrPort) { fmt.Printf("listening on %v\n", at) },
				func(s agent.Served) { fmt.Printf("accepted a connection from %v\n", s.Peer) })
		}()
	}
	for range flags.NArg() {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

func send(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("send: want ADDR TEXT")
	}
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	return agent.Send(ctx, to, args[1]+"\n", func(n agent.Names) {
		fmt.Printf("connected %v -> %v\n", n.Local, n.Peer)
	}, os.Stdout)
}
