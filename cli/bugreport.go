// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/report"
)

const (
	collectors = 16
	maxLog     = 8 << 20 // bytes of one log: its end
)

// reporting is a bug report that is being made.
type reporting struct {
	*command
	nodes, logFiles []string
	to              string
	within          lifetime
	listen          lifetime
	most            int // MB

	archive *report.Archive
	source  fleet.Source
	cluster *fleet.Cluster // nil: no Kubernetes
}

func (c *command) bugReport() *cobra.Command {
	r := &reporting{command: c, within: lifetime(2 * time.Minute), listen: lifetime(3 * time.Second), most: 200}
	cmd := &cobra.Command{
		Use:   "bug-report",
		Short: "Collect what others need to find out what is wrong, in one file",
		Long: `bug-report writes one tar.gz: of every node and replica of the CA its /config_dump, metrics,
readiness and log, what nodes tell on /events for some seconds, culvert status and culvert
check, the versions, and on Kubernetes the pods and Events of the mesh's namespace. INDEX.txt
in it says what is there, and what is not and why.

No Secret is read into it, and what looks like a private key or a token is taken out of all
of it. It does hold names, labels and addresses of pods, Services and policies.

The exit code is 2 if something is missing, though the file is there.`,
		Example: "  culvert bug-report\n  culvert bug-report --ztunnel 127.0.0.1:15000 --log-file /var/log/ztunnel.log",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&r.to, "to", "", "new `file` (default culvert-bug-report-TIME.tar.gz, here)")
	flags.StringSliceVar(&r.nodes, "node", nil, "comma-separated `names` of nodes; all else is collected, too")
	flags.StringSliceVar(&r.logFiles, "log-file", nil, "comma-separated `paths` of logs on this machine, whose ends are collected")
	flags.Var(&r.within, "within", "`time` after which it goes without what has not come")
	flags.Var(&r.listen, "listen", "`time` for which it listens to /events")
	flags.IntVar(&r.most, "max-size", r.most, "`megabytes` at most, before they are compressed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return r.run(cmd) }
	return cmd
}

func (r *reporting) run(cmd *cobra.Command) (err error) {
	if r.most < 1 {
		return fmt.Errorf("--max-size %d: want 1 or more", r.most)
	}
	if r.source, err = r.from.fleet(); err != nil {
		return err
	}
	r.cluster, _ = r.source.(*fleet.Cluster)
	root := "culvert-bug-report-" + r.Now().UTC().Format("20060102-150405")
	if r.to == "" {
		r.to = root + ".tar.gz"
	}
	if r.archive, err = report.Create(r.to, root, int64(r.most)<<20, r.Now()); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	ctx, stop := context.WithTimeoutCause(cmd.Context(), time.Duration(r.within), fmt.Errorf("it did not come within %v (--within)", time.Duration(r.within)))
	defer stop()
	r.collect(ctx, cmd)
	missing, err := r.archive.Close(fmt.Sprintf("culvert bug-report of %s", stamp(r.Now())))
	switch {
	case err != nil:
		return err
	case cmd.Context().Err() != nil:
		return errors.Join(errors.New("interrupted: there is no report"), os.Remove(r.to))
	}
	fmt.Fprintf(r.Stdout, "%s\n", r.to)
	if missing > 0 {
		fmt.Fprintf(r.Stderr, "culvert: %d things are missing: %s in it says which and why\n", missing, report.Index)
	}
	return fail(missing > 0)
}

// task collects one part of a report.
type task struct {
	name string
	do   func(ctx context.Context)
}

// collect runs all tasks, some at a time.
func (r *reporting) collect(ctx context.Context, cmd *cobra.Command) {
	tasks := append(r.verdicts(cmd), r.ofNodes(ctx)...)
	tasks = append(tasks, r.ofCAs(ctx)...)
	tasks = append(tasks, r.ofKubernetes()...)
	for _, path := range r.logFiles {
		tasks = append(tasks, task{path, func(context.Context) { r.logFile(path) }})
	}
	work := r.working("collects", len(tasks), time.Duration(r.within))
	defer work.End()
	r.still = true
	var group sync.WaitGroup
	slots := make(chan struct{}, collectors)
	for _, t := range tasks {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			work.Part(t.name)
			t.do(ctx)
			work.Done(1)
		})
	}
	group.Wait()
}

// put adds what an attempt came to.
func (r *reporting) put(ctx context.Context, name string, text []byte, err error) {
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		r.archive.Miss(name, err)
		return
	}
	r.archive.Add(name, text, "")
}

// putJSON adds an object.
func (r *reporting) putJSON(ctx context.Context, name string, v any, err error) {
	var text []byte
	if err == nil {
		text, err = json.MarshalIndent(v, "", "  ")
	}
	r.put(ctx, name, append(text, '\n'), err)
}

// verdicts are what culvert itself says of the mesh.
func (r *reporting) verdicts(cmd *cobra.Command) []task {
	return []task{
		{"status", func(ctx context.Context) {
			nodes, err := fleet.Nodes(ctx, r.source)
			r.putJSON(ctx, "status.json", standingOf(nodes, r.cluster != nil, r.Now()), err)
			versions := versionsOf(nodes)
			r.putJSON(ctx, "versions.json", versions, err)
		}},
		{"check", func(ctx context.Context) {
			results, err := r.asked(ctx, asking{})
			r.putJSON(ctx, "check.json", map[string]any{"checks": results}, err)
		}},
	}
}

// inside is a name as one part of a path.
func inside(name string) string {
	name = strings.Map(func(c rune) rune {
		if c == '/' || c == '\\' || c == ':' || c < ' ' {
			return '_'
		}
		return c
	}, name)
	return strings.TrimLeft(name, ".")
}

// logFile adds the end of a log of this machine.
func (r *reporting) logFile(path string) {
	name := "logs/" + inside(filepath.ToSlash(path))
	file, err := os.Open(path)
	if err != nil {
		r.archive.Miss(name, err)
		return
	}
	defer file.Close()
	text, why, err := tail(file, maxLog)
	if err != nil {
		r.archive.Miss(name, err)
		return
	}
	r.archive.Add(name, text, why)
}

// tail is the end of a file, from the begin of a line, and why it is not all.
func tail(file *os.File, most int64) (text []byte, why string, err error) {
	stat, err := file.Stat()
	if err != nil {
		return nil, "", err
	}
	if !stat.Mode().IsRegular() {
		return nil, "", errors.New("it is no file")
	}
	from := max(0, stat.Size()-most)
	text = make([]byte, stat.Size()-from)
	n, err := file.ReadAt(text, from)
	text = text[:n]
	if n > 0 {
		err = nil // it may have become shorter
	}
	if from > 0 {
		_, after, _ := strings.Cut(string(text), "\n")
		return []byte(after), fmt.Sprintf("the end of %d bytes", stat.Size()), err
	}
	return text, "", err
}
