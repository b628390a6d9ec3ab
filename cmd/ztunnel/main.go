// SPDX-License-Identifier: Apache-2.0

// Command ztunnel is Culvert's node agent: it carries the connections of the
// node's enrolled pods in mutual TLS. This file only turns flags into a
// ztunnel.Config.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel"
)

func main() {
	cfg := ztunnel.Config{Level: new(slog.LevelVar)}
	flags := flag.NewFlagSet("ztunnel", flag.ExitOnError)
	define(flags, &cfg)
	format := flags.String("log-format", "", "json or text (default text on a terminal, else json)")
	version := flags.Bool("version", false, "print the version and exit")
	flags.Parse(os.Args[1:])

	if *version {
		info, _ := debug.ReadBuildInfo()
		fmt.Println("ztunnel", info.Main.Version, info.GoVersion)
		return
	}
	if flags.NArg() > 0 {
		fail(2, fmt.Errorf("unexpected argument %q", flags.Arg(0)), "flags only: see ztunnel -h")
	}
	if err := cfg.Validate(); err != nil {
		fail(2, err, "see ztunnel -h")
	}
	cfg.Log = slog.New(handler(*format, cfg.Level))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := ztunnel.Run(ctx, cfg); err != nil && !errors.Is(err, context.Canceled) {
		fail(1, err, "")
	}
}

func fail(code int, err error, hint string) {
	fmt.Fprintf(os.Stderr, "ztunnel: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if hint != "" {
		fmt.Fprintf(os.Stderr, "ztunnel: hint: %s\n", hint)
	}
	os.Exit(code)
}

func handler(format string, level slog.Leveler) slog.Handler {
	opts := &slog.HandlerOptions{Level: level}
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	if format == "text" || format == "" && terminal {
		return slog.NewTextHandler(os.Stderr, opts)
	}
	return slog.NewJSONHandler(os.Stderr, opts)
}
