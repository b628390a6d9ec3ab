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

// Levels asks all ztunnels from which level on they log.
func Levels(ctx context.Context, targets []Target) (levels []string, problems []error) {
	levels, problems = make([]string, len(targets)), make([]error, len(targets))
	each(ctx, targets, func(i int, t Target) {
		body, err := t.Fetch(ctx, ZtunnelAdmin, "/logging")
		if err == nil {
			levels[i], err = levelOf(body)
		}
		problems[i] = err
	})
	return levels, problems
}

// SetLevels has all ztunnels log from a level on, or, if it is empty, from the one that each
// was started with.
func SetLevels(ctx context.Context, targets []Target, level string) (levels []string, problems []error) {
	levels, problems = make([]string, len(targets)), make([]error, len(targets))
	each(ctx, targets, func(i int, t Target) { levels[i], problems[i] = t.setLevel(ctx, level) })
	return levels, problems
}

func (t Target) setLevel(ctx context.Context, level string) (string, error) {
	if t.level == nil {
		return "", errors.New("no way to its socket is known")
	}
	ctx, cancel := context.WithTimeout(ctx, setFor)
	defer cancel()
	answer, err := t.level(ctx, level)
	if err != nil {
		return "", err
	}
	return levelOf(answer)
}

// levelOf reads "level LEVEL".
func levelOf(answer []byte) (string, error) {
	level, ok := strings.CutPrefix(firstLine(answer), "level ")
	if !ok {
		return "", fmt.Errorf("its answer is not understood: %q", firstLine(answer))
	}
	return level, nil
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
