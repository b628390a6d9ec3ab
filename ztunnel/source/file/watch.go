// SPDX-License-Identifier: Apache-2.0

package file

import (
	"io/fs"
	"os"

	"github.com/fsnotify/fsnotify"
)

// watch tells that something happened in a directory. It is a hint only: a
// listing at every poll finds what it misses, like a write through a link.
type watch struct {
	dir     string
	watcher *fsnotify.Watcher // nil: this host has none to give
	events  chan fsnotify.Event
	errors  chan error
	on      fs.FileInfo // the directory that is watched; nil: none
}

func newWatch(dir string) (*watch, error) {
	w := &watch{dir: dir}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return w, err
	}
	w.watcher, w.events, w.errors = watcher, watcher.Events, watcher.Errors
	return w, nil
}

// follow puts the watch on what the directory's name means now: the one of
// before may be gone, or moved.
func (w *watch) follow() {
	if w.watcher == nil {
		return
	}
	info, err := os.Stat(w.dir)
	if err != nil {
		w.on = nil
		return
	}
	if w.on != nil && os.SameFile(w.on, info) && len(w.watcher.WatchList()) > 0 {
		return
	}
	_ = w.watcher.Remove(w.dir) // may be gone already
	if w.on = nil; w.watcher.Add(w.dir) == nil {
		w.on = info
	}
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}
