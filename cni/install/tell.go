// SPDX-License-Identifier: Apache-2.0

package install

import (
	"path/filepath"
	"time"
)

// tell says that the entry is lost, and louder in a fight.
func (in *Installer) tell(c change, wait time.Duration) {
	path := filepath.Join(in.config.ConfDir, c.file)
	in.status.set(func(s *status) {
		s.ready, s.problem = false, path+": another program took the plugin's entry out"
		s.repairs[repairedEntry]++
		s.fight = in.fight.on()
	})
	args := []any{logFile, path, logTimes, in.fight.losses, logWait, wait}
	if isCiliums(in.config.ConfDir, c) {
		args = append(args, logHint, hintCilium)
	}
	if in.fight.losses == fightFrom {
		in.log.Error("another program takes the plugin's entry out again and again: pods that start without it are enrolled late", args...)
		return
	}
	in.log.Warn("another program took the plugin's entry out, or put another config before it; it goes back", args...)
}

// waitFor notes what has to happen first, and logs it once. It is no failure: a
// primary CNI may come later, and an installer of before may take its time.
func (in *Installer) waitFor(what error) {
	problem := what.Error()
	in.status.set(func(s *status) { s.ready, s.problem = false, problem })
	if in.said != problem {
		in.said = problem
		in.log.Info("waiting", logError, what)
	}
}

// fail notes a problem, and logs it once, when it is still there at the second
// look: a file may be half written at the first.
func (in *Installer) fail(err error) {
	problem := err.Error()
	in.status.set(func(s *status) { s.ready, s.problem = false, problem; s.failures++ })
	if in.seen == problem && in.said != problem {
		in.said = problem
		in.log.Error("the plugin is not in place; trying again", logError, err)
	}
	in.seen = problem
}
