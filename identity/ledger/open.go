// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrUnusable is of a ledger that cannot be opened as its files are now: the volume is full,
// cannot be written or is away, another process has the lock, or the end of the chain cannot
// be read. It may be usable later. Nobody should wait for it.
var ErrUnusable = errors.New("it cannot be used now")

// Open goes on with the chain of a replica, or begins it, and says in a line how the
// process before left it. Nothing is written before Run. Its error is ErrUnusable, or of
// Options that no ledger takes.
func Open(o Options) (*Ledger, error) { return open(o, bootID()) }

func open(o Options, boot string) (*Ledger, error) {
	o = o.withDefaults()
	switch {
	case o.Replica == "" || strings.ContainsAny(o.Replica, "/\x00") || o.Replica[0] == '.':
		return nil, fmt.Errorf("open the ledger: %q is no name of a replica", o.Replica)
	case o.MaxBytes < MinBytes:
		return nil, fmt.Errorf("open the ledger: %d bytes are too few, want at least %d", o.MaxBytes, MinBytes)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, unusable(err)
	}
	h, promised, err := openHead(filepath.Join(o.Dir, o.Replica+headSuffix))
	if err != nil {
		return nil, unusable(err)
	}
	l := &Ledger{
		opts: o, volume: volume, boot: boot, patience: patience, anchorEvery: anchorEvery, head: h, kick: make(chan struct{}, 1),
		create: create, linked: linked, state: StateRunning, told: time.Now(), progress: make(chan struct{}), number: 1,
	}
	l.fileBytes = min(maxFile, l.room()/8)
	l.stats.Oldest = time.Now() // until it is looked
	l.useAnchors()
	if err := l.resume(promised); err != nil {
		h.close()
		return nil, unusable(err)
	}
	return l, nil
}

func unusable(err error) error { return fmt.Errorf("open the ledger: %w: %w", ErrUnusable, err) }

// resume takes over the chain as it is found.
func (l *Ledger) resume(promised Checkpoint) error {
	chains, err := chainsOf(l.opts.Dir)
	if err != nil {
		return err
	}
	var files []file
	if c := chains[l.opts.Replica]; c != nil {
		files = c.files
	}
	end, err := l.findEnd(files, promised)
	if err != nil {
		return err
	}
	l.seq, l.last, l.written, l.writtenHash, l.writtenID = end.seq, end.last, end.seq, end.last, end.chain
	l.ended, l.chain = l.endedAs(promised, end), cmp.Or(end.chain, promised.Chain, newChain())
	start := Record{Kind: KindStart, Upkeep: Upkeep{Ended: l.ended, Boot: l.boot, Chain: l.chain, Cut: end.cut}}
	if end.seq < promised.Seq {
		l.stats.Lost += promised.Seq - end.seq
		start.Missing = &Missing{First: end.seq + 1, Last: promised.Seq, Why: "the head says that they were on disk, and they are not there"}
		l.seq = promised.Seq
		l.opts.Log.Error("lines of the ledger are gone that were on disk", logDirectory, l.opts.Dir, logFirst, end.seq+1, logLast, promised.Seq)
	}
	if len(files) > 0 {
		l.number = files[len(files)-1].number
		if err := l.reopen(files[len(files)-1]); err != nil {
			return err
		}
	}
	if l.size == 0 {
		l.beginLocked()
	}
	l.addLocked(start)
	return nil
}

func (l *Ledger) endedAs(promised Checkpoint, found end) Ended {
	switch {
	case found.seq == 0 && promised.Seq == 0:
		return EndedFirst
	case promised.State == StateClosed:
		return EndedClosed
	case promised.State == StateFailing:
		return EndedFailing
	case found.bootOr(promised) != l.boot:
		return EndedStopped
	}
	return EndedKilled
}

// reopen goes on with the last file.
func (l *Ledger) reopen(f file) error {
	out, err := os.OpenFile(f.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	l.size, err = out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	l.open = []*output{{File: out, number: f.number, size: l.size}}
	return nil
}

// end is where a chain ends.
type end struct {
	seq   uint64
	last  hash
	chain string // ID; empty: no line of its last file names it
	boot  string // of the machine in which its process ran
	cut   *Cut
}

// bootOr is the boot of the machine in which the process before ran: a head says it once
// there is one.
func (e end) bootOr(promised Checkpoint) string { return cmp.Or(e.boot, promised.Boot) }

// findEnd looks for the last line, in the last file that has one.
func (l *Ledger) findEnd(files []file, promised Checkpoint) (found end, err error) {
	var cut *Cut
	for i := len(files) - 1; i >= 0 && found.seq == 0; i-- {
		found, err = l.endOf(files[i], promised)
		if err != nil {
			return end{}, err
		}
		if found.cut != nil && cut == nil {
			cut = found.cut
		}
	}
	found.cut = cut
	return found, nil
}

// endOf reads a file, and cuts off what a write left behind that a crash has broken off.
//
// What the head promises was on disk whole, so a fault there is another hand's: it stays as
// it is, for Verify to find. Behind that, a line without an end is one that was being
// written. If the machine has stopped since, lines behind may also be anything, since the
// disk holds what it was given in any order.
func (l *Ledger) endOf(f file, promised Checkpoint) (e end, err error) {
	in, err := os.Open(f.path)
	if err != nil {
		return end{}, err
	}
	defer in.Close()
	for all := newLines(in); ; {
		from := all.offset
		line, err := all.next()
		if errors.Is(err, io.EOF) {
			return e, nil
		}
		if errors.Is(err, errTorn) {
			e.cut, err = cut(f, from)
			return e, err
		}
		var r Record
		if err == nil {
			r, err = decode(line)
		}
		follows := err == nil && (e.seq == 0 || r.Prev == e.last.String())
		if !follows && e.seq >= promised.Seq && e.bootOr(promised) != l.boot {
			e.cut, err = cut(f, from)
			return e, err
		}
		if line == nil {
			return e, fmt.Errorf("%s: line %d: %w", f.path, all.number, err)
		}
		e.last = hashOf(line)
		if err == nil {
			e.seq, e.chain, e.boot = r.Seq, cmp.Or(r.Chain, e.chain), cmp.Or(r.Boot, e.boot)
		}
	}
}

// cut shortens a file, and says by what.
func cut(f file, from int64) (*Cut, error) {
	out, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if _, err := out.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, out)
	if err != nil {
		return nil, err
	}
	return &Cut{File: f.number, Bytes: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, out.Truncate(from)
}

// newChain names a chain: one of the same replica that begins anew is another.
func newChain() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// bootID names the time since the machine was started; empty where nothing does.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}
