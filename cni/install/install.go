// SPDX-License-Identifier: Apache-2.0

// Package install puts the CNI plugin into a node: its program into the
// directory of plugins, and behind it an entry into the list of plugins that the
// container runtime runs for each pod. It keeps both there, and takes them away
// again when asked to.
//
// One order holds in all of it: the program is there before a list names it, and
// goes when none does. For a list that names a missing program fails every pod
// of the node, in the mesh or not, to start and to end.
//
//	round of Run                                     Uninstall
//	1 program: write beside, sync, rename            1 lists: cut the entry out
//	2 list:    write beside, sync, exchange          2 wait until runtimes read them
//	                                                 3 program: remove, unless a
//	                                                   sandbox still needs it
//
// Killed between any two steps, the next start finds a node that works, and
// goes on. The end of Run changes nothing: pods of the mesh that start while a
// new version comes must wait for it.
package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Config is what to install and where.
type Config struct {
	ConfDir  string          // of the container runtime's CNI configs; required, absolute, there
	BinDir   string          // of its CNI plugins; required, absolute, there
	Program  string          // file that holds the plugin; required
	Entry    json.RawMessage // the plugin's element of the list; required. Its type names the program in BinDir
	Versions []string        // of CNI, that the plugin speaks; required
	Settle   time.Duration   // how long ConfDir must be quiet before a look; 100 ms
	Poll     time.Duration   // how often to look without an event; 10 s
	Log      *slog.Logger    // discards
}

func (c Config) entry() (entry, error) {
	name, err := text(c.Entry, whole(c.Entry), "type")
	if err != nil || name == "" || filepath.Base(name) != name {
		return entry{}, fmt.Errorf("entry: want an object whose type is the name of a program, got %.200s", c.Entry)
	}
	return entry{name, c.Entry, c.Versions}, nil
}

func (c *Config) setDefaults() {
	if c.Settle <= 0 {
		c.Settle = 100 * time.Millisecond
	}
	if c.Poll <= 0 {
		c.Poll = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// directories refuses what would only be found out at the first pod.
func directories(all ...[2]string) error {
	var errs []error
	for _, d := range all {
		field, path := d[0], d[1]
		st, err := os.Stat(path)
		switch {
		case !filepath.IsAbs(path):
			errs = append(errs, fmt.Errorf("%s: want an absolute path, got %q", field, path))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %s: %v", field, path, cause(err)))
		case !st.IsDir():
			errs = append(errs, fmt.Errorf("%s: %s is not a directory", field, path))
		}
	}
	return errors.Join(errs...)
}

// Installer keeps the plugin in place on one node.
type Installer struct {
	config Config
	entry  entry
	binary binary
	log    *slog.Logger
	status status

	// Only Run's goroutine uses these.
	placed bool      // the program was in place once
	held   bool      // the entry was in place at the last look
	fight  fight     // with whoever takes it out
	due    time.Time // before that it does not go back
	tries  int       // rounds in a row that failed
	said   string    // the problem that was logged last
	seen   string    // the problem of the last round
}

// New returns an installer, or what is wrong with the config. Errors open with
// the field, named as its flag is.
func New(c Config) (*Installer, error) {
	entry, err := c.entry()
	if err := errors.Join(err, directories([2]string{"conf-dir", c.ConfDir}, [2]string{"bin-dir", c.BinDir})); err != nil {
		return nil, err
	}
	c.setDefaults()
	return &Installer{
		config: c, entry: entry, log: c.Log,
		binary: binary{from: c.Program, to: filepath.Join(c.BinDir, entry.name)},
		status: status{problem: "nothing was looked at yet"},
	}, nil
}

// settleAtMost is how many settling times a busy directory may defer a look.
const settleAtMost = 10

// Run installs the plugin and keeps it in place until ctx ends; then it returns
// nil, and all stays as it is. Of several installers of one directory one works
// and the others wait.
func (in *Installer) Run(ctx context.Context) error {
	mine, err := in.acquire(ctx)
	if mine == nil {
		return err
	}
	defer mine.Close()
	if err := errors.Join(tidy(in.config.ConfDir), tidy(in.config.BinDir)); err != nil {
		in.log.Warn("files that a killed installer left cannot be removed", logError, err)
	}
	watch, err := newWatch(in.config.ConfDir, in.config.BinDir)
	if err != nil {
		in.log.Warn("cannot watch the directories; changes are seen late", logWait, in.config.Poll, logError, err)
	}
	defer watch.close()
	in.loop(ctx, watch)
	in.log.Info("stopped; the plugin stays in place, culvert-cni uninstall takes it away", logDir, in.config.ConfDir)
	return nil
}

// acquire returns the lock of the directory, or nil when ctx ends before.
func (in *Installer) acquire(ctx context.Context) (*os.File, error) {
	for {
		mine, err := lock(in.config.ConfDir)
		if !errors.Is(err, errInUse) {
			return mine, err
		}
		in.waitFor(err)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(in.config.Settle):
		}
	}
}

func (in *Installer) loop(ctx context.Context, watch *watch) {
	poll := time.NewTicker(in.config.Poll)
	defer poll.Stop()
	next := time.NewTimer(0) // the first look is at once
	defer next.Stop()
	var since time.Time // of the first event not yet looked at; zero: none
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-watch.events:
			if !ofOthers(e) {
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) < settleAtMost*in.config.Settle {
				next.Reset(in.config.Settle)
			}
		case <-watch.errors: // events were lost
			next.Reset(in.config.Settle)
		case <-poll.C:
			next.Reset(0)
		case <-next.C:
			since = time.Time{}
			watch.follow() // first, so that no event falls between look and watch
			if wait := in.look(time.Now()); wait > 0 {
				next.Reset(wait)
			}
		}
	}
}
