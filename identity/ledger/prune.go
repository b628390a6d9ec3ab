// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"errors"
	"io"
	"os"
	"slices"
	"time"
)

// aged is a file that no process writes to any more.
type aged struct {
	file
	replica string
	size    int64
	mod     time.Time
}

// room is how many bytes the directory may take. On a volume that holds less than MaxBytes, a
// ledger that took all of it could not write the line that names what it removes.
func (l *Ledger) room() int64 {
	if all := l.volume(l.opts.Dir); all > 0 {
		return min(l.opts.MaxBytes, all/10*9)
	}
	return l.opts.MaxBytes
}

// prune removes files that are older than MaxAge, and the oldest ones if there are more
// bytes than there is room for. A line names each before it goes. Files of other replicas go only
// when their processes have ended.
func (l *Ledger) prune(now time.Time) {
	chains, err := chainsOf(l.opts.Dir)
	if err != nil {
		return // the writer says so
	}
	most := l.room() - l.fileBytes
	total, free, oldest := int64(0), []aged{}, time.Time{}
	for replica, c := range chains {
		unlock, ended := l.abandoned(replica, c)
		defer unlock()
		for i, f := range c.files {
			stat, err := os.Stat(f.path)
			if err != nil {
				continue
			}
			total += stat.Size()
			if oldest.IsZero() || stat.ModTime().Before(oldest) {
				oldest = stat.ModTime()
			}
			if ended || replica == l.opts.Replica && i < len(c.files)-1 && f.number < l.current() {
				free = append(free, aged{f, replica, stat.Size(), stat.ModTime()})
			}
		}
	}
	slices.SortFunc(free, func(a, b aged) int { return cmp.Or(a.mod.Compare(b.mod), cmp.Compare(a.number, b.number)) })
	for _, f := range free {
		why := ""
		switch {
		case now.Sub(f.mod) > l.opts.MaxAge:
			why = "age"
		case total > most:
			why = "room"
		default:
			continue
		}
		if l.remove(f, why) {
			total -= f.size
		}
	}
	l.dropHeads(chains)
	l.mu.Lock()
	l.stats.Bytes, l.stats.Oldest = total, oldest
	l.mu.Unlock()
}

// current is the number of the file that is written to.
func (l *Ledger) current() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == 0 {
		return 0
	}
	return l.open[0].number
}

// abandoned reports whether the process of another chain has ended, and keeps a next one from
// beginning until unlock.
func (l *Ledger) abandoned(replica string, c *chain) (unlock func(), ended bool) {
	if replica == l.opts.Replica {
		return func() {}, false
	}
	if c.head == "" {
		return func() {}, true
	}
	h, _, err := openHead(c.head)
	if err != nil {
		return func() {}, false
	}
	return h.close, true
}

// remove names a file in the chain and removes it, once the head promises that line: Verify
// believes no other.
func (l *Ledger) remove(f aged, why string) bool {
	last, err := lastOf(f.path)
	if err != nil {
		return false
	}
	l.mu.Lock()
	if l.state != StateRunning { // the line would wait, and be one of many
		l.mu.Unlock()
		return false
	}
	kept := l.takeLocked(Record{Kind: KindRemoved, Upkeep: Upkeep{Removed: &Removed{Replica: f.replica, Chain: last.chain, Number: f.number, Last: last.seq, Hash: last.last.String(), Why: why}}})
	at := l.seq
	l.mu.Unlock()
	l.wake()
	if !kept || !l.await(at, retryEvery) || !l.promise(at) || os.Remove(f.path) != nil {
		return false
	}
	l.opts.Log.Info("a file of the ledger is removed", logFile, f.path, logWhy, why, logLast, last.seq)
	l.mu.Lock()
	defer l.mu.Unlock()
	if why == "age" {
		l.stats.RemovedByAge++
	} else {
		l.stats.RemovedForRoom++
	}
	return true
}

// promise has the head name all that is written, and reports whether it promises a line by a
// signature.
func (l *Ledger) promise(seq uint64) bool {
	if err := l.settle(StateRunning); err != nil {
		return false // sync says so
	}
	said := l.head.said
	return said.Seq >= seq && (said.Signer != "" || l.opts.Certify == nil)
}

// dropHeads removes heads of chains that have no file any more.
func (l *Ledger) dropHeads(before map[string]*chain) {
	after, err := chainsOf(l.opts.Dir)
	if err != nil {
		return
	}
	for replica, c := range after {
		if was := before[replica]; replica != l.opts.Replica && len(c.files) == 0 && was != nil && len(was.files) > 0 {
			os.Remove(c.head)
		}
	}
}

// lastOf reads a file up to its last line.
func lastOf(path string) (e end, err error) {
	in, err := os.Open(path)
	if err != nil {
		return end{}, err
	}
	defer in.Close()
	for all := newLines(in); ; {
		line, err := all.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errTorn):
			return e, nil
		case line == nil:
			return end{}, err
		}
		if r, err := decode(line); err == nil {
			e.seq, e.chain = r.Seq, cmp.Or(r.Chain, e.chain)
		}
		e.last = hashOf(line)
	}
}
