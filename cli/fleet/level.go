// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const setFor = 15 * time.Second // a level, on one node

// Levels is from which level on a ztunnel logs.
type Levels struct {
	Node   string            // what it says that it is; empty: it was not asked
	Level  string            // of what has no scope
	Scopes map[string]string // level by scope; empty: the ztunnel is of a version without
}

// LogLevels asks all ztunnels from which level on they log.
func LogLevels(ctx context.Context, targets []Target) (levels []Levels, problems []error) {
	levels, problems = make([]Levels, len(targets)), make([]error, len(targets))
	each(ctx, targets, func(i int, t Target) {
		body, err := t.Fetch(ctx, ZtunnelAdmin, "/logging")
		if err == nil {
			levels[i], err = levelsOf(body)
		}
		if err == nil {
			levels[i].Node = t.says(ctx)
		}
		problems[i] = err
	})
	return levels, problems
}

// SetLevels has all ztunnels log from a level on, which is as loglevel.Check takes it, or, if
// it is empty, from the one that each was started with.
func SetLevels(ctx context.Context, targets []Target, level string) (levels []Levels, problems []error) {
	levels, problems = make([]Levels, len(targets)), make([]error, len(targets))
	each(ctx, targets, func(i int, t Target) {
		levels[i], problems[i] = t.setLevel(ctx, level)
		if problems[i] == nil { // one that is silent is not waited for twice
			levels[i].Node = t.says(ctx)
		}
	})
	return levels, problems
}

// says is which node a target is, if only the target itself knows.
func (t Target) says(ctx context.Context) string {
	if t.Pod != "" {
		return ""
	}
	return t.node(ctx).Dump.Config.NodeName
}

func (t Target) setLevel(ctx context.Context, level string) (Levels, error) {
	if t.level == nil {
		return Levels{}, errors.New("no way to its socket is known")
	}
	ctx, cancel := context.WithTimeout(ctx, setFor)
	defer cancel()
	answer, err := t.level(ctx, level)
	if err != nil {
		return Levels{}, err
	}
	return levelsOf(answer)
}

// levelsOf reads "level LEVEL" and, of versions that have scopes, lines "SCOPE LEVEL".
func levelsOf(answer []byte) (Levels, error) {
	level, ok := strings.CutPrefix(firstLine(answer), "level ")
	if !ok {
		return Levels{}, fmt.Errorf("its answer is not understood: %q", firstLine(answer))
	}
	all := Levels{Level: level, Scopes: make(map[string]string)}
	_, more, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n")
	for line := range strings.Lines(more) {
		scope, level, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			return Levels{}, fmt.Errorf("its answer is not understood: %q", firstLine([]byte(line)))
		}
		all.Scopes[scope] = level
	}
	return all, nil
}

// levelQuery is what a socket is asked for.
func levelQuery(level string) string {
	query := url.Values{"level": {level}}
	if level == "" {
		query = url.Values{"reset": {""}}
	}
	return "/logging?" + query.Encode()
}

// levelArgs is the command that changes it in a ztunnel's container.
func levelArgs(args []string, level string) []string {
	if level == "" {
		return append(inPod(args, "log"), "-reset")
	}
	return append(inPod(args, "log"), "-level="+level)
}
