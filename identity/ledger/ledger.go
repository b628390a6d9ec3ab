// SPDX-License-Identifier: Apache-2.0

// Package ledger accounts for every certificate of a CA: an append-only file with one line
// for each decision, each of which names the one before by its hash. Signed checkpoints say
// how far the chain had come, so that a line which is changed, removed or moved later is
// found (Verify).
//
// Each replica has a chain of its own in a directory:
//
//	REPLICA-00000001.jsonl   lines; the next file goes on with the chain
//	REPLICA.head             the last checkpoint: what it names is on disk
//
// A line is in the file, though not yet on the disk, before the decision is answered. So a process
// that is killed loses no line, and a machine that stops loses those of syncEvery. While
// lines cannot be written, decisions wait for nobody: up to maxQueue bytes of lines wait for
// the disk, and those beyond are lost, counted, and named by a line of KindGap.
//
//	running --a write fails--> failing --all that waited is written--> running
//	running, failing --Run's context ends--> closed
package ledger

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	syncEvery       = 500 * time.Millisecond // how much a machine that stops may lose
	checkpointEvery = time.Minute            // while lines come
	pruneEvery      = time.Hour
	certifyEvery    = time.Second // how often it is looked whether another key is due
	retryEvery      = time.Second
	patience        = 50 * time.Millisecond // of a decision, for its line to be written
	hangsAfter      = time.Second           // one write
	endWithin       = 10 * time.Second      // for the last lines of a process
	maxQueue        = 8 << 20               // bytes that wait for the disk
	maxFile         = 16 << 20
)

// Options says where a ledger is, and how much it keeps.
type Options struct {
	Dir     string // required; made if it is not there
	Replica string // whose chain it is, as files are named; required
	MaxAge  time.Duration
	// MaxBytes is of all files of the directory; at least 1 MiB; 1 GiB. A ledger takes nine
	// tenths of its volume at most, whatever it says.
	MaxBytes int64

	// Certify returns a certificate with Subject(Replica) for the key of checkpoints, and
	// those above it but the root. Without it, checkpoints are not signed.
	Certify func(crypto.PublicKey) ([]*x509.Certificate, error)
	Issuer  func() *x509.Certificate // that signs now: another one certifies another key

	// Roots vouch for the checkpoints of former processes and other replicas. Without, no line
	// of theirs proves that what an anchor names was removed by rule.
	Roots func() []*x509.Certificate

	// Anchors is where the checkpoint of the chain is kept, too, as an older state of all files
	// is a good ledger by itself. Without, it is kept nowhere else.
	Anchors Anchorage
	Alarm   func(what string) // is told of lines that are lost by the anchors; nobody
	Log     *slog.Logger      // discards
}

// MinBytes is the least that a ledger may keep.
const MinBytes = 1 << 20

func (o Options) withDefaults() Options {
	if o.MaxAge == 0 {
		o.MaxAge = 90 * 24 * time.Hour
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Ledger keeps the chain of one replica. It is safe for concurrent use.
type Ledger struct {
	opts        Options
	fileBytes   int64 // after which the next file begins
	patience    time.Duration
	anchorEvery time.Duration
	boot        string
	ended       Ended // how the process before did
	kick        chan struct{}
	head        *head // only Open, and then the goroutine that syncs, use it
	anchoring   anchoring
	busySince   atomic.Int64 // when the write began that goes on, in ns; 0: none does

	// The calls that may hang with the disk. They are made without mu.
	create func(path string) (*os.File, error)
	volume func(dir string) (bytes int64) // what the volume holds; 0: nobody knows
	linked func(*os.File) bool

	mu    sync.Mutex // guards what follows; nobody waits for the disk under it
	state State
	since time.Time // of StateFailing
	signs *signer   // nil: none yet

	unsignedSaid bool // that there is none, or none that holds

	// The chain as it will be when all that is queued is written.
	chain   string // ID
	seq     uint64
	last    hash
	number  uint64 // of the file
	size    int64  // of the file
	signed  uint64 // Seq of the last checkpoint
	told    time.Time
	missing *Missing // lines for which there was no room, which no line names yet

	queue   []chunk
	queued  int64 // bytes, those that are being written included
	writing *chunk

	written     uint64 // Seq of the last line in a file
	writtenHash hash
	writtenID   string        // of the chain at that line; empty: an older version wrote it
	progress    chan struct{} // closed when written grows, or the state changes
	open        []*output     // not synced; the last one is written to
	promised    Checkpoint    // that this process has put into the head last
	anchored    Anchored

	stats Stats
}

// chunk is lines for one file that wait to be written.
type chunk struct {
	number uint64
	lines  []byte
	count  uint64 // of lines
	seq    uint64 // of the last one
	last   hash
	id     string // of the chain at that one
}

// output is a file that is written to.
type output struct {
	*os.File
	number uint64
	size   int64
	lines  uint64 // that this process wrote
	gone   bool   // another hand has taken it away: only the goroutine that syncs uses it
}

// Stats is what there is to say of a ledger.
type Stats struct {
	Issued, Denied uint64 // decisions that were taken since the start
	Lost           uint64 // lines that are not kept: no room, or taken away by another hand
	Late           uint64 // decisions that were answered before their line was written
	Failing        bool   // lines cannot be written at present
	Unsigned       bool   // checkpoints are not signed: the CA certifies no key
	Bytes          int64  // of all files of the directory
	Oldest         time.Time
	RemovedByAge   uint64 // files
	RemovedForRoom uint64
	Ended          Ended // how the process before left the chain
}

// Stats returns them.
func (l *Ledger) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Failing, s.Unsigned, s.Ended = l.state == StateFailing, !l.signs.holds(time.Now()), l.ended
	return s
}

// Issued writes down that a certificate was signed. It returns when the line is in a file,
// or it cannot be for the moment.
func (l *Ledger) Issued(d Decision) { l.append(KindIssued, d) }

// Denied writes down that a caller which had proved who it is got none.
func (l *Ledger) Denied(d Decision) { l.append(KindDenied, d) }

func (l *Ledger) append(kind Kind, d Decision) {
	l.mu.Lock()
	if kind == KindIssued {
		l.stats.Issued++
	} else {
		l.stats.Denied++
	}
	kept := l.takeLocked(Record{Kind: kind, Decision: d.bounded()})
	seq, waits := l.seq, kept && l.state == StateRunning
	l.mu.Unlock()
	if !kept {
		return
	}
	l.wake()
	if waits && !l.await(seq, l.patience) {
		l.late()
	}
}

// late counts a decision that does not wait any longer. If one write takes too long, the
// next decisions do not wait at all.
func (l *Ledger) late() {
	l.mu.Lock()
	l.stats.Late++
	l.mu.Unlock()
	if began := l.busySince.Load(); began != 0 && time.Since(time.Unix(0, began)) > hangsAfter {
		l.note(errHangs)
	}
}

var errHangs = errors.New("the disk does not answer")

func (l *Ledger) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// await reports whether the line is in a file within a time. It does not wait for a
// ledger that is failing.
func (l *Ledger) await(seq uint64, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		l.mu.Lock()
		done, failing, progress := l.written >= seq, l.state == StateFailing, l.progress
		l.mu.Unlock()
		if done || failing {
			return done
		}
		select {
		case <-progress:
		case <-timer.C:
			return false
		}
	}
}

// takeLocked adds a line to the chain, if there is room, and what must stand before it.
func (l *Ledger) takeLocked(r Record) (kept bool) {
	if !l.roomLocked() {
		l.loseLocked(r.Kind)
		return false
	}
	l.tellMissingLocked()
	if l.size >= l.fileBytes {
		l.rotateLocked()
	}
	return l.addLocked(r)
}

// roomLocked reports whether a line may wait for the disk.
func (l *Ledger) roomLocked() bool {
	return l.queued < maxQueue && (l.missing == nil || l.queued <= maxQueue/2)
}

// loseLocked counts a line for which there is no room. It has a Seq nevertheless.
func (l *Ledger) loseLocked(kind Kind) {
	l.seq++
	l.stats.Lost++
	if l.missing == nil {
		l.missing = &Missing{First: l.seq, Since: time.Now().UTC(), Why: "there was no room for lines that wait for the disk"}
	}
	l.missing.Last = l.seq
	switch kind {
	case KindIssued:
		l.missing.Issued++
	case KindDenied:
		l.missing.Denied++
	}
}

// tellMissingLocked has a line name those that were lost.
func (l *Ledger) tellMissingLocked() {
	if l.missing == nil {
		return
	}
	gap := l.missing
	l.missing = nil
	l.addLocked(Record{Kind: KindGap, Upkeep: Upkeep{Missing: gap}})
}

// rotateLocked ends a file by a checkpoint and begins the next, which names its signer.
func (l *Ledger) rotateLocked() {
	l.checkpointLocked()
	l.number++
	l.beginLocked()
}

func (l *Ledger) beginLocked() {
	l.size = 0
	l.addLocked(Record{Kind: KindFile, Upkeep: Upkeep{Version: 1, Number: l.number, Boot: l.boot, Chain: l.chain}})
	l.nameSignerLocked()
}

func (l *Ledger) nameSignerLocked() {
	if !l.signs.holds(time.Now()) {
		return
	}
	var ders [][]byte
	for _, cert := range l.signs.certs {
		ders = append(ders, cert.Raw)
	}
	if l.addLocked(Record{Kind: KindSigner, Upkeep: Upkeep{Certificates: ders}}) && l.signs.seq == 0 {
		l.signs.seq = l.seq
	}
}

// checkpointLocked signs all lines so far.
func (l *Ledger) checkpointLocked() {
	c := Checkpoint{Replica: l.opts.Replica, Chain: l.chain, Seq: l.seq, Hash: l.last.String(), Time: time.Now().UTC()}
	c = l.signs.upTo(c.Seq, c.Time).sign(c)
	l.addLocked(Record{Kind: KindCheckpoint, Upkeep: Upkeep{Signed: &c}})
	l.signed, l.told = l.seq, time.Now()
}

// addLocked completes a line and queues it. It reports whether it did: else the line is lost.
func (l *Ledger) addLocked(r Record) bool {
	r.Seq, r.Time, r.Replica, r.Prev = l.seq+1, time.Now().UTC(), l.opts.Replica, l.last.String()
	line, err := r.encode()
	if err != nil { // only lists can be that long
		r.Pods, r.PodsOmitted, r.DNSNames = nil, len(r.Pods)+r.PodsOmitted, nil
		line, err = r.encode()
	}
	if err != nil {
		l.opts.Log.Error("a record of the ledger cannot be written", logKind, string(r.Kind), logError, err)
		l.loseLocked(r.Kind)
		return false
	}
	if n := len(l.queue); n == 0 || l.queue[n-1].number != l.number {
		l.queue = append(l.queue, chunk{number: l.number})
	}
	c := &l.queue[len(l.queue)-1]
	c.lines = append(append(c.lines, line...), '\n')
	c.count++
	l.seq, l.last = r.Seq, hashOf(line)
	c.seq, c.last, c.id = l.seq, l.last, cmp.Or(r.Chain, l.chain)
	l.size += int64(len(line)) + 1
	l.queued += int64(len(line)) + 1
	return true
}

// Run writes what is appended, and signs and syncs it, until ctx ends. Then it ends the
// chain in good order, unless the disk hangs: whoever appends must have ended before.
func (l *Ledger) Run(ctx context.Context) error {
	defer l.head.close()
	l.certify()
	var group sync.WaitGroup
	group.Go(func() { l.write(ctx) })
	group.Go(func() { l.sync(ctx) })
	group.Go(func() { l.keepCertified(ctx) })
	group.Go(func() { l.keepAnchored(ctx) })
	<-ctx.Done()
	ended := make(chan error, 1)
	go func() {
		group.Wait()
		err := l.end()
		l.endAnchored()
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-time.After(endWithin):
		return errors.New("end the ledger: its disk does not answer")
	}
}

// end writes the last line.
func (l *Ledger) end() error {
	l.mu.Lock()
	l.tellMissingLocked()
	l.addLocked(Record{Kind: KindEnd})
	l.mu.Unlock()
	err := l.flush()
	if err == nil {
		err = l.settle(StateClosed)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, out := range l.open {
		out.Close()
	}
	l.open = nil
	if err != nil {
		return fmt.Errorf("end the ledger: %v", err)
	}
	return nil
}

// endAnchored has the last line be anchored, too, if that takes no time.
func (l *Ledger) endAnchored() {
	if l.opts.Anchors != nil {
		l.look(context.Background(), anchorLast)
	}
}
