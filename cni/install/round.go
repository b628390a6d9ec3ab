// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// look makes one round, and returns after how long to make another though
// nothing happens; 0 is at the next poll.
func (in *Installer) look(now time.Time) time.Duration {
	wait, err := in.round(now)
	if in.fight.over(now) {
		in.log.Info("nobody takes the plugin's entry out any more", logWait, peace)
	}
	in.status.set(func(s *status) { s.fight = in.fight.on() })
	switch {
	case errors.Is(err, errChanged):
		return in.config.Settle
	case errors.Is(err, errNoNetwork):
		in.waitFor(fmt.Errorf("%s: %w", in.config.ConfDir, err))
		return 0
	case err != nil:
		in.fail(err)
		in.tries++
		return backoff(in.tries - 1)
	}
	in.tries, in.seen, in.said = 0, "", ""
	return wait
}

// round brings program and list into place, in this order. Held back by a fight,
// it returns how long.
func (in *Installer) round(now time.Time) (wait time.Duration, err error) {
	if err := in.program(); err != nil {
		return 0, err
	}
	if err := in.dropOrphans(); err != nil {
		return 0, err
	}
	c, err := in.entry.network(in.config.ConfDir)
	if err != nil {
		return 0, err
	}
	if !c.exist {
		if wait := in.mayWrite(c, now); wait > 0 {
			return wait, nil
		}
		if err := in.write(c); err != nil {
			return 0, err
		}
		in.log.Info("the plugin is in the list of plugins, last", logFile, filepath.Join(in.config.ConfDir, c.file))
	}
	in.held = true
	in.status.set(func(s *status) { s.ready, s.problem = true, "" })
	return 0, nil
}

func (in *Installer) program() error {
	placed, err := in.binary.place()
	switch {
	case err != nil:
		return err
	case placed && in.placed:
		in.log.Warn("the plugin's program was gone or not ours: it is in its place again", logFile, in.binary.to)
		in.status.set(func(s *status) { s.repairs[repairedBinary]++ })
	case placed:
		in.log.Info("the plugin's program is in its place", logFile, in.binary.to)
	}
	in.placed = true
	return nil
}

// dropOrphans removes lists of ours whose config was removed by its owner.
func (in *Installer) dropOrphans() error {
	files, err := orphans(in.config.ConfDir)
	if err != nil {
		return err
	}
	for _, file := range files {
		path := filepath.Join(in.config.ConfDir, file)
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove %s: %w", path, cause(err))
		}
		in.log.Info("removed the list that was made of a config which is gone", logFile, path)
	}
	return nil
}

// mayWrite returns how long the entry has to wait before it goes into the list.
// That it was there and is not is a loss. In a stale list it still is.
func (in *Installer) mayWrite(c change, now time.Time) time.Duration {
	if c.stale {
		return 0
	}
	if in.held {
		in.held = false
		wait := in.fight.lost(now)
		in.due = now.Add(wait)
		in.tell(c, wait)
	}
	return max(0, in.due.Sub(now))
}

// write makes the change. Errors name the file, and leave what was there.
func (in *Installer) write(c change) error {
	path := filepath.Join(in.config.ConfDir, c.file)
	err := c.write(in.config.ConfDir)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, cause(err))
	}
	return nil
}
