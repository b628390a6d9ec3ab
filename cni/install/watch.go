// SPDX-License-Identifier: Apache-2.0

package install

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// watch tells that something happened in the directories. It is a hint only: the
// look at every poll finds what it misses, like a write through a link, or a
// directory that was mounted over.
type watch struct {
	watcher *fsnotify.Watcher // nil: this host has none to give
	events  chan fsnotify.Event
	errors  chan error
	on      map[string]fs.FileInfo // what is watched, by the name of the directory
}

func newWatch(dirs ...string) (*watch, error) {
	w := &watch{on: make(map[string]fs.FileInfo)}
	for _, dir := range dirs {
		w.on[dir] = nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return w, err
	}
	w.watcher, w.events, w.errors = watcher, watcher.Events, watcher.Errors
	return w, nil
}

// follow puts the watch on what the directories' names mean now: those of before
// may be gone, or moved.
func (w *watch) follow() {
	if w.watcher == nil {
		return
	}
	for dir, on := range w.on {
		now, err := os.Stat(dir)
		if err == nil && on != nil && os.SameFile(now, on) && slices.Contains(w.watcher.WatchList(), dir) {
			continue
		}
		_ = w.watcher.Remove(dir) // may be gone already
		w.on[dir] = nil
		if err == nil && w.watcher.Add(dir) == nil {
			w.on[dir] = now
		}
	}
}

// ofOthers reports whether an event tells of more than an installer's own
// temporary file, for one that fails would wake itself again and again.
func ofOthers(e fsnotify.Event) bool {
	return !strings.HasPrefix(filepath.Base(e.Name), temporary)
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}
