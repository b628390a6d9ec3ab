// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
)

// Problem is what is wrong with a field of a policy, or cannot be judged of it.
type Problem struct {
	Code  Code
	Field string
	Text  string
}

func problem(code Code, field, format string, args ...any) *Problem {
	return &Problem{code, field, fmt.Sprintf(format, args...)}
}

// Error returns "field: text".
func (p *Problem) Error() string { return p.Field + ": " + p.Text }

// problems are those that an error joins.
func problems(err error) (all []*Problem) {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return nil
	}
	for _, e := range joined.Unwrap() {
		var p *Problem
		if errors.As(e, &p) {
			all = append(all, p)
		}
	}
	return all
}

// Code names a sort of Problem. It is stable: culvert policy lint prints it.
type Code string

// The codes. docs/lint.md explains each.
const (
	BadField      Code = "bad-field"
	UnknownField  Code = "unknown-field"
	EmptyList     Code = "empty-list"
	BadPort       Code = "bad-port"
	BadAddress    Code = "bad-address"
	BadName       Code = "bad-name"
	SpiffeScheme  Code = "spiffe-scheme"
	StarInside    Code = "star-inside"
	Layer7        Code = "layer-7"
	RemoteIP      Code = "remote-ip"
	UnknownKey    Code = "unknown-key"
	DryRunValue   Code = "dry-run-value"
	TargetRefs    Code = "target-refs"
	NoEffect      Code = "no-effect"
	PortsOfNobody Code = "ports-without-selector"
)
