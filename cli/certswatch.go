// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/progress"
)

func (c *command) certsWatch() *cobra.Command {
	var s selection
	every, during := interval{lifetime(2 * time.Second)}, lifetime(0)
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Print certificates as they come, change and go",
		Long: `watch prints a line for each certificate that nodes hold, and then one for each that
comes, is renewed, changes its state or goes, and for each node that falls silent or is
back. It ends when it is interrupted, or after --for.`,
		Example: "  culvert certs watch --ns shop",
		Args:    cobra.NoArgs,
	}
	out := formats(cmd, "text", "json")
	s.define(cmd.Flags())
	cmd.Flags().Var(&every, "every", "`time` between two looks")
	cmd.Flags().Var(&during, "for", "`time` after which it ends (default never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := c.nodes(cmd); err != nil { // there is something to watch
			return err
		}
		ctx := cmd.Context()
		if during > 0 {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeout(ctx, time.Duration(during))
			defer stop()
		}
		w := watch{command: c, selection: s, json: out.value == "json", work: c.working("watches certificates", 0, time.Duration(during))}
		defer w.work.End()
		err := w.run(ctx, time.Duration(every.lifetime))
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	return cmd
}

// watch follows what nodes hold.
type watch struct {
	*command
	selection
	json bool
	work *progress.Work
	last map[string]held // by node and identity; of a silent node, its problem as Error
}

func (w *watch) run(ctx context.Context, every time.Duration) error {
	source, err := w.from.fleet()
	if err != nil {
		return err
	}
	for {
		nodes, err := fleet.Nodes(ctx, source)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // an API server that is away for a moment is no end
			fmt.Fprintf(w.Stderr, "culvert: %s\n", printable(err.Error()))
		} else if err := w.look(nodes); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}

// look says what is other than at the last look.
func (w *watch) look(nodes []fleet.Node) error {
	now := map[string]held{}
	silent := map[string]bool{}
	for _, n := range nodes {
		if n.Problem != "" {
			silent[n.Name] = true
			now[n.Name+" "] = held{Node: n.Name, State: endsUnknown, Error: n.Problem}
		}
	}
	for _, h := range holdings(nodes, w.Now()) {
		if w.matches(h, w.Now()) {
			now[h.Node+" "+h.Identity] = h
		}
	}
	for key, h := range w.last {
		if _, there := now[key]; !there && silent[h.Node] {
			now[key] = h // nobody says that it went
		}
	}
	for _, key := range changed(w.last, now) {
		h, there := now[key]
		word := "held"
		switch before, known := w.last[key]; {
		case !there && before.Identity == "":
			h, word = before, "answers"
		case !there:
			h, word = before, "gone"
		case h.Identity == "":
			word = "silent"
		case known && before.Serial != h.Serial && before.Serial != "":
			word = "renewed"
		case known:
			word = "changed"
		}
		if err := w.work.Around(func() error { return w.say(word, h) }); err != nil {
			return err
		}
	}
	w.last = now
	w.work.Part(fmt.Sprintf("%d nodes, %d of them silent, %d certificates", len(nodes), len(silent), len(now)-len(silent)))
	return nil
}

func (w *watch) say(word string, h held) error {
	if w.json {
		return printJSON(w.Stdout, map[string]any{"time": w.Now().UTC(), "event": word, "certificate": h})
	}
	line := fmt.Sprintf("%s %-8s %s %s", stamp(w.Now()), word, h.Node, h.Identity)
	if h.Identity != "" {
		line += fmt.Sprintf(" %s serial=%s left=%s", h.State, h.Serial, w.left(h.Until))
	}
	if h.Error != "" {
		line += " error=" + fmt.Sprintf("%q", h.Error)
	}
	_, err := fmt.Fprintln(w.Stdout, printable(line))
	return err
}
