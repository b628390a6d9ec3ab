// SPDX-License-Identifier: Apache-2.0

// Package loglevel gives each part of ztunnel a logger with a level of its own.
//
// A part's records carry its scope, by which they are found and by which their level is set.
// The levels live as long as the process.
package loglevel

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

const keyScope = "scope"

// Scope is a part of ztunnel that logs.
type Scope string

// The scopes.
const (
	Access  Scope = "access"  // records of connections
	Certs   Scope = "certs"   // SVIDs, roots that vouch for peers, the deny set, the Workload API
	Export  Scope = "export"  // sending access records to a receiver
	Pods    Scope = "pods"    // enrolling and steering pods
	Report  Scope = "report"  // what the API server is told
	Source  Scope = "source"  // workloads and policies, from the API server or a directory
	Ztunnel Scope = "ztunnel" // the rest: start, state directory, NetworkPolicies that block tunnels
)

var scopes = []Scope{Access, Certs, Export, Pods, Report, Source, Ztunnel}

// Scopes are the names of all scopes, sorted.
func Scopes() []string {
	names := make([]string, len(scopes))
	for i, s := range scopes {
		names[i] = string(s)
	}
	return names
}

// Levels are the levels of all scopes, and that of the records without one. Safe for
// concurrent use.
type Levels struct {
	log     *slog.Logger
	rest    *slog.LevelVar // of records without a scope
	initial slog.Level
	of      map[Scope]*slog.LevelVar // not written after New
}

// New returns levels that all are that of rest. log writes the records of all scopes; rest
// is the level from which on it writes those that come to it without a scope.
func New(log *slog.Logger, rest *slog.LevelVar) *Levels {
	l := &Levels{log: log, rest: rest, initial: rest.Level(), of: make(map[Scope]*slog.LevelVar, len(scopes))}
	for _, s := range scopes {
		l.of[s] = new(slog.LevelVar)
	}
	l.Reset()
	return l
}

// Logger writes the records of a scope. Those of Access name it themselves, so that it
// stands first in them.
func (l *Levels) Logger(s Scope) *slog.Logger {
	log := slog.New(handler{l.log.Handler(), l.of[s]})
	if s == Access {
		return log
	}
	return log.With(keyScope, string(s))
}

// Reset brings back the levels of New.
func (l *Levels) Reset() { l.all(l.initial) }

func (l *Levels) all(level slog.Level) {
	l.rest.Set(level)
	for _, at := range l.of {
		at.Set(level)
	}
}

// Set changes levels as text says, which is as for Check: a level alone is that of all that
// text does not name. An error changes nothing.
func (l *Levels) Set(text string) error {
	c, err := parse(text)
	if err != nil {
		return err
	}
	if c.all != nil {
		l.rest.Set(*c.all)
	}
	for s, at := range l.of {
		if level, ok := c.of[s]; ok {
			at.Set(level)
		} else if c.all != nil {
			at.Set(*c.all)
		}
	}
	return nil
}

// String is a line "level LEVEL", of records without a scope, and a line "SCOPE LEVEL" for
// each scope.
func (l *Levels) String() string {
	var b strings.Builder
	line := func(name string, at *slog.LevelVar) {
		fmt.Fprintf(&b, "%s %s\n", name, strings.ToLower(at.Level().String()))
	}
	line("level", l.rest)
	for _, s := range scopes {
		line(string(s), l.of[s])
	}
	return b.String()
}

// handler writes records from the level of their scope on, whatever that of the next is.
type handler struct {
	slog.Handler
	at *slog.LevelVar
}

func (h handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.at.Level() }

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.at}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name), h.at} }
