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
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel"
)

const seeHelp = "see ztunnel -h"

func main() {
	cfg := ztunnel.Config{Level: new(slog.LevelVar)}
	flags := flag.NewFlagSet("ztunnel", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong with the flags is told by fail
	define(flags, &cfg)
	format := flags.String("log-format", "", "json or text (default text on a terminal, else json)")
	version := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(os.Stdout)
		flags.Usage()
		return
	case err != nil:
		fail(2, err, seeHelp)
	}

	if *version {
		info, _ := debug.ReadBuildInfo()
		fmt.Println("ztunnel", info.Main.Version, info.GoVersion)
		return
	}
	if flags.NArg() > 0 {
		fail(2, fmt.Errorf("unexpected argument %q", flags.Arg(0)), "flags only: "+seeHelp)
	}
	if err := cfg.Validate(); err != nil {
		fail(2, err, seeHelp)
	}
	handler, err := handler(*format, cfg.Level)
	if err != nil {
		fail(2, err, seeHelp)
	}
	cfg.Log = slog.New(handler)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := ztunnel.Run(ctx, cfg); err != nil && !errors.Is(err, context.Canceled) {
		hint := ""
		if os.Geteuid() != 0 {
			hint = "it loads BPF and enters the pods' network namespaces: run it as root"
		}
		fail(1, err, hint)
	}
}

// fail says on stderr what is wrong and what to do about it.
func fail(code int, err error, hint string) {
	fmt.Fprintf(os.Stderr, "ztunnel: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if hint != "" {
		fmt.Fprintf(os.Stderr, "ztunnel: hint: %s\n", hint)
	}
	os.Exit(code)
}

func handler(format string, level slog.Leveler) (slog.Handler, error) {
	opts := &slog.HandlerOptions{Level: level}
	if format == "" {
		format = "json"
		if stat, err := os.Stderr.Stat(); err == nil && stat.Mode()&os.ModeCharDevice != 0 {
			format = "text"
		}
	}
	switch format {
	case "text":
		return slog.NewTextHandler(os.Stderr, opts), nil
	case "json":
		return slog.NewJSONHandler(os.Stderr, opts), nil
	}
	return nil, fmt.Errorf("-log-format %q is neither json nor text", format)
}
