// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/culvert-mesh/culvert/cmd/program"
)

// question is a command that has the ztunnel of this node do something, on the socket that
// only root can reach, and prints the answer as it came.
type question struct {
	name, usage string
	needs       string      // the flag that is required
	words       [][2]string // flags and what they mean: those that are set are the query
	ask         func(ctx context.Context, dir string, query url.Values) ([]byte, error)
}

func (q question) put(args []string) {
	p := program.New("ztunnel "+q.name, q.usage)
	values := make(map[string]*string)
	for _, word := range q.words {
		values[word[0]] = new(string)
		program.Var(p.Flags, values[word[0]], word[0], "", word[1], program.Word)
	}
	var dir string
	program.Var(p.Flags, &dir, "state-dir", "/run/culvert", "`directory` that ztunnel has as -state-dir", program.Path)
	p.Parse(args, func() error {
		if *values[q.needs] == "" {
			return fmt.Errorf("-%s is required", q.needs)
		}
		return nil
	})
	p.Run(func(ctx context.Context) error {
		query := url.Values{}
		for name, value := range values {
			if *value != "" {
				query.Set(name, *value)
			}
		}
		answer, err := q.ask(ctx, dir, query)
		if err == nil {
			_, err = os.Stdout.Write(answer)
		}
		return err
	}, notRoot)
}
