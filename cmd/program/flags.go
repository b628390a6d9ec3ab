// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"flag"
	"fmt"
	"strings"
)

// Var defines a flag whose value parse understands or refuses. Given twice, the
// later replaces the earlier. An empty value is refused, not taken for the
// default: it is mostly a variable that is not set. def is the default as it
// would be written, or empty for none.
func Var[T any](flags *flag.FlagSet, dst *T, name, def, usage string, parse func(string) (T, error)) {
	v := &value{def: def, set: func(s string) error {
		parsed, err := parse(s)
		if err == nil {
			*dst = parsed
		}
		return err
	}}
	if def != "" {
		if err := v.Set(def); err != nil {
			panic(fmt.Sprintf("the default of -%s: %v", name, err))
		}
	}
	flags.Var(v, name, usage)
}

// Switch defines a flag that is off unless given.
func Switch(flags *flag.FlagSet, dst *bool, name, usage string) {
	v := &value{set: func(s string) error {
		switch s {
		case "true", "false":
			*dst = s == "true"
			return nil
		}
		return errors.New("want true or false")
	}}
	flags.Var(&onOff{v}, name, usage)
}

// value is a flag.Value.
type value struct {
	def string
	set func(string) error
}

func (v *value) String() string { return v.def }

func (v *value) Set(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return errors.New("it is empty: leave the flag out for its default")
	case strings.TrimSpace(s) != s:
		return errors.New("it begins or ends with a space")
	}
	return v.set(s)
}

// onOff is a value that may be left out.
type onOff struct{ *value }

func (*onOff) IsBoolFlag() bool { return true }

func (v *onOff) String() string { return "" }

// List reads comma-separated values.
func List[T comparable](parse func(string) (T, error)) func(string) ([]T, error) {
	return func(s string) ([]T, error) {
		var all []T
		seen := make(map[T]bool)
		for field := range strings.SplitSeq(s, ",") {
			field = strings.TrimSpace(field)
			if field == "" {
				return nil, errors.New("the list has an empty entry")
			}
			v, err := parse(field)
			if err != nil {
				return nil, err
			}
			if seen[v] {
				return nil, fmt.Errorf("%s is listed twice", field)
			}
			seen[v] = true
			all = append(all, v)
		}
		return all, nil
	}
}
