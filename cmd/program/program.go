// SPDX-License-Identifier: Apache-2.0

// Package program is what the programs below cmd have in common: a command
// line that explains what is wrong with it, a log that cannot stop the program,
// and last words.
package program

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
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/journal"
)

// lastWords is how long a program that ends waits for its output to take what
// is still to be said. The output may be a pipe that nobody reads.
const lastWords = time.Second

// Program is one process's command line and log.
type Program struct {
	Flags *flag.FlagSet
	Level *slog.LevelVar // of the log
	Log   *slog.Logger   // set by Parse

	name    string
	usage   string
	format  string
	version bool
	journal *journal.Journal // nil before the log is open
}

// New returns a program whose -h says usage and then its flags.
func New(name, usage string) *Program {
	p := &Program{Flags: flag.NewFlagSet(name, flag.ContinueOnError), Level: new(slog.LevelVar), name: name, usage: usage}
	p.Flags.SetOutput(io.Discard) // Fail says what is wrong with the flags
	p.Flags.Usage = func() {
		fmt.Fprint(p.Flags.Output(), usage)
		p.Flags.PrintDefaults()
	}
	level := slog.LevelInfo
	Var(p.Flags, &level, "log-level", "info", "`level` from which on records are logged: debug, info, warn or error", func(s string) (slog.Level, error) {
		level, err := Level(s)
		p.Level.Set(level)
		return level, err
	})
	Var(p.Flags, &p.format, "log-format", "", "`format` of the log: json or text (default text on a terminal, else json)", OneOf("json", "text"))
	p.Flags.BoolVar(&p.version, "version", false, "print the version and exit")
	return p
}

// Parse reads the arguments and opens the log, or ends the program: with help
// or version where they are asked for, else with what is wrong. check says what
// the flags cannot see each by itself.
func (p *Program) Parse(args []string, check func() error) {
	switch err := p.Flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		p.Flags.SetOutput(os.Stdout)
		p.Flags.Usage()
		os.Exit(0)
	case err != nil:
		p.misused(err)
	}
	if p.version {
		info, _ := debug.ReadBuildInfo()
		fmt.Println(p.name, info.Main.Version, info.GoVersion)
		os.Exit(0)
	}
	if p.Flags.NArg() > 0 {
		p.Fail(2, fmt.Errorf("unexpected argument %q", p.Flags.Arg(0)), "flags only: "+p.seeHelp())
	}
	if err := check(); err != nil {
		p.misused(err)
	}
	p.open()
}

func (p *Program) misused(err error) { p.Fail(2, err, p.seeHelp()) }

func (p *Program) seeHelp() string { return "see " + p.name + " -h" }

// open starts the log. What other packages print by the standard library's
// loggers goes there, too: their own way to stderr may block.
func (p *Program) open() {
	format := journal.JSON(p.Level)
	if p.format == "text" || p.format == "" && isTerminal(os.Stderr) {
		format = journal.Text(p.Level)
	}
	// A log whose reader is gone is an error to count, not the end.
	signal.Ignore(syscall.SIGPIPE)
	p.journal = journal.New(os.Stderr, format, journal.Options{})
	go p.journal.Run()
	p.Log = slog.New(p.journal.Handler())
	slog.SetDefault(p.Log)
}

func isTerminal(f *os.File) bool {
	stat, err := f.Stat()
	return err == nil && stat.Mode()&os.ModeCharDevice != 0
}

// Dropped is how many records the log could not take, by level.
func (p *Program) Dropped() map[string]uint64 { return p.journal.Dropped() }

// Run runs the program until it ends, or SIGTERM or SIGINT ends its context. If
// it fails, hint says what to do about the error.
func (p *Program) Run(run func(context.Context) error, hint func(error) string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		p.Fail(1, err, hint(err))
	}
	p.journal.Close(lastWords)
}

// Fail ends the program and says on stderr what is wrong and what to do about it.
func (p *Program) Fail(code int, err error, hint string) {
	text := fmt.Sprintf("%s: %s\n", p.name, strings.ReplaceAll(err.Error(), "\n", "; "))
	if hint != "" {
		text += fmt.Sprintf("%s: hint: %s\n", p.name, hint)
	}
	if p.journal != nil {
		p.journal.Close(lastWords)
	}
	said := make(chan struct{})
	go func() {
		defer close(said)
		fmt.Fprint(os.Stderr, text)
	}()
	select {
	case <-said:
	case <-time.After(lastWords):
	}
	os.Exit(code)
}
