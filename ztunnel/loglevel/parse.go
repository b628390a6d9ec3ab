// SPDX-License-Identifier: Apache-2.0

package loglevel

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

var words = []string{"debug", "info", "warn", "error"}

// Words are the names of levels, from the one with most records on.
func Words() []string { return slices.Clone(words) }

// change is what a text asks for.
type change struct {
	all *slog.Level // of what of does not name; nil: that stays
	of  map[Scope]slog.Level
}

// Check says what is wrong with a text that sets levels: a level, for all, or
// comma-separated SCOPE=LEVEL, as certs=debug,source=debug, or both, as warn,certs=info. For
// those who come from Istio, a colon is as good.
func Check(text string) error {
	_, err := parse(text)
	return err
}

func parse(text string) (change, error) {
	c := change{of: make(map[Scope]slog.Level)}
	for item := range strings.SplitSeq(text, ",") {
		if err := c.add(item); err != nil {
			return change{}, err
		}
	}
	return c, nil
}

func (c *change) add(item string) error {
	at := strings.IndexAny(item, "=:")
	if at < 0 {
		level, err := levelOf(item)
		if err == nil && c.all != nil {
			err = errors.New("there is more than one level for all")
		}
		c.all = &level
		return err
	}
	scope := Scope(item[:at])
	if !slices.Contains(scopes, scope) {
		return fmt.Errorf("scope %q: want %s", scope, or(Scopes()))
	}
	if _, twice := c.of[scope]; twice {
		return fmt.Errorf("scope %q is named twice", scope)
	}
	level, err := levelOf(item[at+1:])
	if err != nil {
		return fmt.Errorf("scope %q: %w", scope, err)
	}
	c.of[scope] = level
	return nil
}

func levelOf(word string) (level slog.Level, err error) {
	if !slices.Contains(words, strings.ToLower(word)) {
		return 0, fmt.Errorf("level %q: want %s", word, or(words))
	}
	return level, level.UnmarshalText([]byte(word))
}

func or(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
