// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

// lookUp is how often it is asked whether the directory's name leads to another
// directory, which no watch tells.
const lookUp = time.Second

// Watch is part of Store. The watch is on the directory: files that are replaced, or
// the link of a mount that the kubelet swaps, are entries of it.
func (d Directory) Watch(ctx context.Context, changed func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil { // the host has no more to give
		if d.Log != nil {
			d.Log.Warn("the directory of the CA cannot be watched; it is read every minute", logStore, d.Path, logError, err)
		}
		<-ctx.Done()
		return
	}
	defer w.Close()
	again := time.NewTicker(lookUp)
	defer again.Stop()
	for on := (os.FileInfo)(nil); ; {
		if next := d.rewatch(w, on); next != on {
			on = next
			changed()
		}
		select {
		case <-ctx.Done():
			return
		case <-w.Errors: // an overflow, for instance
			changed()
		case <-w.Events:
			changed()
		case <-again.C:
			if on == nil { // between two looks at the name, what is not watched may come and go
				changed()
			}
		}
	}
}

// rewatch puts the watch on what the directory's name means now, if that is not what
// it is on. It returns what that is, nil for nothing.
func (d Directory) rewatch(w *fsnotify.Watcher, on os.FileInfo) os.FileInfo {
	now, err := os.Stat(d.Path)
	switch {
	case err == nil && on != nil && os.SameFile(on, now) && len(w.WatchList()) > 0:
		return on
	case err != nil && on == nil:
		return nil
	}
	_ = w.Remove(d.Path) // it may be gone already
	if err != nil || w.Add(d.Path) != nil {
		return nil
	}
	return now
}
