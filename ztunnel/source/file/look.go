// SPDX-License-Identifier: Apache-2.0

package file

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// maxTries is how many looks may meet a writer before it is said aloud.
const maxTries = 50

// look reads the directory and delivers what changed. It reports after what time to
// look again, 0 for not before something happens: because somebody was writing, or
// for what is held.
func (s *Source) look(sink source.Sink) (again time.Duration) {
	files, err := list(s.dir)
	first := !s.looked
	s.looked = true
	s.shown, s.reread = files, err != nil
	if err == nil && len(files) == 0 && len(s.force.entries) > 0 {
		err = errors.New("no file is left; to delete the last object, leave a file with a comment")
	}
	if err != nil {
		s.fail(fmt.Errorf("read %s: %w", s.dir, err), true)
		return 0
	}
	v, writing := s.see(files, first)
	if writing {
		if s.tries++; s.tries < maxTries {
			again = s.options.Settle
		}
	} else {
		s.tries = 0
	}
	if s.Stats().Generation == 0 {
		if wait := s.startsIn(v); wait > 0 || v.blind {
			s.report(v)
			s.waits(wait > 0, v.now)
			return soonest(again, wait)
		}
	}
	s.settle(v)
	s.deliver(v, sink)
	s.report(v)
	s.waits(v.held > 0, v.now)
	return soonest(again, v.wait)
}

func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// startsIn returns how long until all files have been the same for long enough: while
// nothing is in force, everything lets more in. Statuses of pods do not count, or a
// directory where they change all the time would never be in force.
func (s *Source) startsIn(v *seen) (wait time.Duration) {
	for _, f := range s.files {
		wait = max(wait, s.options.Confirm-v.now.Sub(f.asked))
	}
	return wait
}

func (s *Source) deliver(v *seen, sink source.Sink) {
	s.mu.Lock()
	s.stats.Held = v.held
	if !v.changed && s.stats.Generation > 0 {
		s.mu.Unlock()
		return
	}
	snapshot := s.force.builder.Snapshot()
	s.stats.Generation++
	s.stats.InForce, s.stats.Files, s.stats.Objects = time.Now(), len(s.parsed), len(s.force.entries)
	snapshot.Version = s.stats.Generation
	s.mu.Unlock()
	s.options.Log.Debug("snapshot", logDir, s.dir, logVersion, snapshot.Version, logFiles, len(s.parsed), logObjects, len(s.force.entries), logHeld, v.held)
	sink(snapshot)
}

// see reads the whole directory. writing: a file was written or replaced meanwhile, and
// that is no error yet.
func (s *Source) see(files []listed, first bool) (v *seen, writing bool) {
	v = &seen{now: time.Now(), claims: map[key][]entry{}, early: map[string]bool{}}
	since := v.now
	if first && rested(s.dir, files, v.now.Add(-s.options.Confirm)) {
		since = v.now.Add(-s.options.Confirm)
	}
	fresh := make(map[string]parsed, len(files))
	for _, f := range files {
		p, err := s.parse(f)
		if err != nil {
			v.blind, s.reread = true, true
			s.files[f.name] = standing{since: v.now, asked: v.now}
			if transient(err) && s.tries+1 < maxTries {
				writing = true
				continue
			}
			writing = writing || transient(err)
			v.errs = append(v.errs, fmt.Errorf("%s: %w", f.name, pathless(err)))
			continue
		}
		fresh[f.name] = p
		s.stand(f.name, standing{rest: p.contents.rest, marks: p.contents.mark, since: since, asked: since})
		v.claim(p.contents)
		v.errs = append(v.errs, p.contents.errs.all(f.name)...)
	}
	s.parsed = fresh
	s.missing(files, v.now)
	return v, writing
}

// missing notes which files are gone, and forgets those that nothing waits for.
func (s *Source) missing(files []listed, now time.Time) {
	there := make(map[string]bool, len(files))
	for _, f := range files {
		there[f.name] = true
	}
	for name, f := range s.files {
		switch {
		case there[name]:
		case !f.gone:
			s.files[name] = standing{gone: true, since: now, asked: now}
		case now.Sub(f.since) > 2*s.options.Confirm:
			delete(s.files, name)
		}
	}
}

// transient reports whether a file was written or replaced while we read; a
// link may also point nowhere while the kubelet changes a ConfigMap.
func transient(err error) bool {
	return errors.Is(err, errChanging) || errors.Is(err, errEmpty) || errors.Is(err, fs.ErrNotExist)
}

// parse reads a file, and decodes it unless it still means what it meant.
func (s *Source) parse(f listed) (parsed, error) {
	if f.err != nil {
		return parsed{}, f.err
	}
	data, err := read(filepath.Join(s.dir, f.name))
	if err != nil {
		return parsed{}, err
	}
	sum := sha256.Sum256(data)
	if old, ok := s.parsed[f.name]; ok && old.sum == sum {
		return old, nil
	}
	p := parsed{sum: sum, contents: decode(f.name, data, s.parsed[f.name].contents.sound)}
	if errors.Is(errors.Join(p.contents.errs.list...), errEmpty) {
		return parsed{}, errEmpty
	}
	p.contents.makers = nil // their pods are what counts
	for _, note := range p.contents.ignored {
		s.options.Log.Debug("ignored: not a kind that the mesh needs", logObject, note)
	}
	for _, r := range p.contents.remarks.list {
		s.tell(r)
	}
	return p, nil
}
