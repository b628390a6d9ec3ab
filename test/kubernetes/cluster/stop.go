// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// stoppedPath is a file that is there while a program of the control plane, or a node, is
// to stay ended.
func (c Config) stoppedPath(name string) string { return filepath.Join(c.dir(), "stopped", name) }

// Stop kills a program of the control plane, or a node, and keeps it from being started
// again until Continue. It returns before it is dead.
func Stop(cluster, name string) error {
	path := Config{Name: cluster}.stoppedPath(name)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644))
}

// Continue has what Stop ended started again, within a second.
func Continue(cluster, name string) error {
	err := os.Remove(Config{Name: cluster}.stoppedPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// obey kills what is to be stopped, for as long as this process lives.
func (p *processes) obey() {
	const pause = 100 * time.Millisecond
	for ; ; time.Sleep(pause) {
		p.mu.Lock()
		for pid, child := range p.running {
			if p.stopped(child.name) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		p.mu.Unlock()
	}
}

// mayStart has e started again once it is no longer stopped.
func (p *processes) mayStart(e ended) {
	const pause = 100 * time.Millisecond
	for p.stopped(e.name) {
		time.Sleep(pause)
	}
	p.ended <- e
}
