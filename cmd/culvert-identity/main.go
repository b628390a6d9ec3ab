// SPDX-License-Identifier: Apache-2.0

// Command culvert-identity is Culvert's certificate authority: nodes ask it for
// the certificates of the ServiceAccounts whose pods run on them.
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
)

const seeHelp = "see culvert-identity -h"

func main() {
	var cfg config
	flags := flag.NewFlagSet("culvert-identity", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong with the flags is told by fail
	define(flags, &cfg)
	level := new(slog.LevelVar)
	flags.TextVar(level, "log-level", level, "debug, info, warn or error")
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
		fmt.Println("culvert-identity", info.Main.Version, info.GoVersion)
		return
	}
	if flags.NArg() > 0 {
		fail(2, fmt.Errorf("unexpected argument %q", flags.Arg(0)), "flags only: "+seeHelp)
	}
	if err := cfg.validate(); err != nil {
		fail(2, err, seeHelp)
	}
	handler, err := handler(*format, level)
	if err != nil {
		fail(2, err, seeHelp)
	}
	cfg.log = slog.New(handler)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		fail(1, err, "")
	}
}

// fail says on stderr what is wrong and what to do about it.
func fail(code int, err error, hint string) {
	fmt.Fprintf(os.Stderr, "culvert-identity: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if hint != "" {
		fmt.Fprintf(os.Stderr, "culvert-identity: hint: %s\n", hint)
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
