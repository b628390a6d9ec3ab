// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// How the writing is shared. The leader packs what all have into one batch, reading from
// their apps' sockets straight into its records, writes it, and again, until nothing is
// left. After some batches a leader whose own app has nothing more passes on to another
// stream, so that no app's reader serves the others forever. Whoever has something else to
// do does not wait for a tunnel's socket: a leader that finds it full leaves the batch to a
// goroutine. So an app whose stream is ended is let go at once, a caller keeps its
// deadline, and two full tunnels' readers do not wait for each other.
//
// The flag leading is set when a leader is chosen, and cleared when the leader finds
// nothing left, in the same hold of mu. So what is queued while somebody leads is written.
//
// Functions whose names end in Unlocking release mu meanwhile.
const leaderBatches = 4

// nothingToSend reports that there is nothing to lead for; mu is held.
func (w *writer) nothingToSend() bool {
	return w.over || len(w.control) == 0 && !w.hangUp && w.ready() == nil
}

// ready is a stream that could send now; mu is held.
func (w *writer) ready() *Stream {
	if w.window <= 0 {
		return nil
	}
	return w.first()
}

// kick chooses a leader if frames or streams are queued; mu is held. A stream that is
// queued waits in serve, and leads there.
func (w *writer) kick() {
	if w.leading || w.nothingToSend() {
		return
	}
	if s := w.ready(); s != nil {
		w.leading, s.leads = true, true
		s.hasChanged()
		return
	}
	if w.handling.Load() {
		return
	}
	w.leading = true
	go func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.leadUnlocking(nil)
	}()
}

// leadUnlocking writes batch after batch, for a stream that has something to send
// or, with nil, in a goroutine that has nothing else to do and waits for the socket;
// mu is held.
func (w *writer) leadUnlocking(own *Stream) {
	for batches := 0; !w.nothingToSend(); batches++ {
		if batches >= leaderBatches && (own == nil || own.state != senderQueued) {
			break
		}
		n, leads := w.writeNextUnlocking(own == nil)
		if !leads {
			return
		}
		if n == 0 {
			break
		}
	}
	w.endLeadUnlocking()
}

// writeNextUnlocking packs and writes one batch, of n bytes. The caller leads no
// more if that was left to a goroutine, for want of room in the socket; one that
// waits does it itself. mu is held.
func (w *writer) writeNextUnlocking(waits bool) (n int, leads bool) {
	batch := record.TakeBatch(min(w.wanted(), w.mostAhead()))
	w.packUnlocking(batch)
	if n = batch.Len(); n == 0 {
		batch.Release()
		return 0, true
	}
	w.mu.Unlock()
	done, err := w.c.wire.Begin(batch)
	if done {
		batch.Release()
	}
	w.mu.Lock()
	if done {
		w.wroteUnlocking(err)
		return n, true
	}
	w.blocked(batch)
	if !waits {
		go w.goOn(batch)
		return n, false
	}
	w.mu.Unlock()
	err = w.finish(batch)
	w.mu.Lock()
	w.wroteUnlocking(err)
	return n, true
}

// keeper is a wire that has a batch in memory of its own while it waits.
type keeper interface{ Held() int }

// blocked notes that the socket does not take a batch at once. Until it has, the pod
// holds the batch for a peer that may never read it; mu is held.
func (w *writer) blocked(b *record.Batch) {
	w.blockedAt, w.blockedBy, w.blockedIn = time.Now(), b.Len(), b.Cap()
	if wire, ok := w.c.wire.(keeper); ok {
		w.blockedIn += wire.Held()
	}
	w.c.memory.hold(w.blockedIn)
}

// unblocked is the end of blocked; mu is held.
func (w *writer) unblocked() {
	w.keepPace(w.blockedBy, time.Since(w.blockedAt))
	w.c.memory.hold(-w.blockedIn)
	w.blockedAt, w.blockedIn = time.Time{}, 0
}

// finish waits for the socket to take the rest of a batch.
func (w *writer) finish(batch *record.Batch) error {
	defer batch.Release()
	return w.c.wire.Finish()
}

// goOn leads from a batch that the socket did not take at once.
func (w *writer) goOn(batch *record.Batch) {
	err := w.finish(batch)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wroteUnlocking(err)
	w.leadUnlocking(nil)
}

// wroteUnlocking notes the end of a write; mu is held.
func (w *writer) wroteUnlocking(err error) {
	if !w.blockedAt.IsZero() {
		w.unblocked()
	}
	if err != nil {
		w.control, w.over = nil, true
		w.dropAnswers()
		w.mu.Unlock()
		w.c.tear()
		w.mu.Lock()
	}
	w.reportUnlocking()
}

// reportUnlocking tells conn that all was written that was packed, if conn awaits that.
// When it returns, conn awaits nothing; mu is held.
func (w *writer) reportUnlocking() {
	for w.awaited {
		w.awaited = false
		w.mu.Unlock()
		w.c.written()
		w.mu.Lock()
	}
}

// endLeadUnlocking chooses the next leader if something is left to write; mu is held.
func (w *writer) endLeadUnlocking() {
	w.reportUnlocking()
	w.leading = false
	if w.hangUp && len(w.control) == 0 && !w.over {
		w.leading, w.over = true, true
		go w.sayGoodbye()
		return
	}
	w.kick()
}

// sayGoodbye is the last write. Only the end of the wire ends its wait for the
// socket. The reader sees to that end, so it must not call this.
func (w *writer) sayGoodbye() {
	w.c.wire.CloseWrite()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reportUnlocking()
	w.leading = false
}
