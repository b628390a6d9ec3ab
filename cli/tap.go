// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// tapping is what tap is to show, and for how long.
type tapping struct {
	*command
	out          *format
	nodes, kinds []string
	ns, from, to string
	direction    string
	refused      bool
	during       lifetime
	most         int
	lines        columns
	shown        int
	silent       map[string]bool // nodes that do not answer now
	telling      atomic.Bool     // an output is being written to
}

func (c *command) tap() *cobra.Command {
	t := &tapping{command: c, silent: map[string]bool{}}
	cmd := &cobra.Command{
		Use:   "tap",
		Short: "Show connections of all nodes as they open, close and are refused",
		Long: `tap listens to the ztunnels of all nodes, and prints a line for each connection that
opens, closes or is refused, each pod that is enrolled or not any more, each change of
policies and each repair of steering. Both pods of a connection inside the mesh tell of it,
each from its side. Nothing of before is shown.

Nothing waits for a reader: what a ztunnel had to drop is counted in a line. A node that
falls silent, answers again, comes or goes is said on stderr; with -o json, where each line
is an object, that is a line among the others. It ends when it is interrupted, or after
--for or --count. The exit code is 2 if a node did not answer then.`,
		Example: "  culvert tap --refused --to shop/db\n  culvert tap --ns shop --for 1m -o json",
		Args:    cobra.NoArgs,
	}
	t.out = formats(cmd, "table", "wide", "json")
	flags := cmd.Flags()
	flags.StringSliceVar(&t.nodes, "node", nil, "comma-separated `names` of nodes")
	namespaceFlag(flags, &t.ns, "of either end")
	flags.StringVar(&t.from, "from", "", "`client`: a namespace, or namespace/name of a workload or a pod")
	flags.StringVar(&t.to, "to", "", "`server`, as --from")
	flags.StringVar(&t.direction, "direction", "", "only inbound, or only outbound, as the pods see it")
	flags.StringSliceVar(&t.kinds, "event", nil, "comma-separated `words`: open, close, refused, policy_changed, enrolled, unenrolled or repaired (default all)")
	flags.BoolVar(&t.refused, "refused", false, "connections that are refused alone, as --event refused")
	flags.Var(&t.during, "for", "`time` after which it ends (default never)")
	flags.IntVar(&t.most, "count", 0, "`number` of events after which it ends (default never)")
	cmd.MarkFlagsMutuallyExclusive("refused", "event")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query, err := t.query()
		if err != nil {
			return err
		}
		source, err := t.among(t.nodes)
		if err != nil {
			return err
		}
		return t.listen(cmd.Context(), source, query)
	}
	return cmd
}

var eventKinds = []string{"open", "close", "refused", "policy_changed", "enrolled", "unenrolled", "repaired"}

// query is what ztunnels are asked for.
func (t *tapping) query() (url.Values, error) {
	if t.refused {
		t.kinds = []string{"refused"}
	}
	for _, kind := range t.kinds {
		if !slices.Contains(eventKinds, kind) {
			return nil, fmt.Errorf("--event %q: want %s", kind, or(eventKinds))
		}
	}
	switch {
	case t.direction != "" && t.direction != "inbound" && t.direction != "outbound":
		return nil, fmt.Errorf("--direction %q: want inbound or outbound", t.direction)
	case t.most < 0:
		return nil, fmt.Errorf("--count %d: want a number of events", t.most)
	}
	query := url.Values{}
	for name, value := range map[string]string{"namespace": t.ns, "from": t.from, "to": t.to, "event": strings.Join(t.kinds, ",")} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query, nil
}

func (t *tapping) listen(ctx context.Context, source fleet.Source, query url.Values) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if t.during > 0 {
		ctx, stop = context.WithTimeout(ctx, time.Duration(t.during))
		defer stop()
	}
	t.Stdout, t.Stderr = outlet{t.Stdout, &t.telling}, outlet{t.Stderr, &t.telling}
	t.lines.w = t.Stdout
	ended := make(chan error, 1)
	go func() { ended <- t.follow(ctx, stop, source, query) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTicker(lastWords)
	defer late.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-late.C:
			if t.telling.Load() { // the terminal was stopped, and takes no more words either
				return fail(true)
			}
		}
	}
}

// outlet is an output that says whether something is being written to it.
type outlet struct {
	io.Writer
	telling *atomic.Bool
}

func (w outlet) Write(p []byte) (int, error) {
	w.telling.Store(true)
	defer w.telling.Store(false)
	return w.Writer.Write(p)
}

// lastWords is how long an output may take what is still to be said.
const lastWords = time.Second

// follow tells what nodes tell, until ctx is done. It waits for the output.
func (t *tapping) follow(ctx context.Context, stop func(), source fleet.Source, query url.Values) error {
	failed := t.head()
	err := fleet.Follow(ctx, source, query, func(told fleet.Told) {
		if ctx.Err() != nil {
			return
		}
		if failed = errors.Join(failed, t.tell(told)); failed != nil || t.most > 0 && t.shown >= t.most {
			stop()
		}
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	}
	for _, node := range slices.Sorted(maps.Keys(t.silent)) {
		fmt.Fprintf(t.Stderr, "culvert: %s: it does not answer\n", printable(node))
	}
	return fail(len(t.silent) > 0)
}

// tell prints an event, or a word about a node.
func (t *tapping) tell(told fleet.Told) error {
	switch told.Word {
	case "":
		if t.direction != "" && told.Event.Direction != t.direction && told.Event.Kind != "dropped" {
			return nil
		}
		t.shown++
		return t.event(told.Node, told.Event)
	case fleet.Silent:
		t.silent[told.Target] = true
		return t.word(told, told.Problem)
	case fleet.Began:
		fmt.Fprintf(t.Stderr, "culvert: listens to %s, %d do not answer\n", plural(told.Nodes, "node"), len(t.silent))
		return nil
	case fleet.Answers:
		delete(t.silent, told.Target)
		return t.word(told, fmt.Sprintf("answers again; what happened there in %s is not shown", long(max(told.For, time.Second))))
	case fleet.Gone:
		delete(t.silent, told.Target)
		return t.word(told, "has no ztunnel any more")
	}
	return t.word(told, "is new, and answers")
}

// word says how it is with a node.
func (t *tapping) word(told fleet.Told, text string) error {
	if t.out.value == "json" {
		line := map[string]any{"node": told.Node, "time": time.Now().UTC(), "event": told.Word}
		if told.Problem != "" {
			line["error"] = told.Problem
		}
		return printLine(t.Stdout, line)
	}
	_, err := fmt.Fprintf(t.Stderr, "culvert: %s: %s\n", printable(told.Node), printable(text))
	return err
}
