// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// answering is the answers that wait for something else to be written; writer.mu guards
// it.
//
// A peer that sent its app's first bytes along with the CONNECT does not wait for our
// answer, but for the app's: so ours may go in the same write, if that comes soon. It
// saves each end a record, a system call and often a wake-up.
type answering struct {
	answers []byte      // header blocks
	late    *time.Timer // writes them if nothing else does
}

// answerPause is how long an answer waits. A peer that fills its share of early bytes
// meanwhile sends no more for so long. It is a variable for tests.
var answerPause = 2 * time.Millisecond

// earlyEnough is so few early bytes that the peer may send as many once more before it
// has to wait for the answer.
const earlyEnough = earlyLimit / 2

// saysEnough reports that the peer's app has said something, and that the peer may say
// more without an answer. conn.mu is held.
func (s *Stream) saysEnough() bool {
	s.toApp.mu.Lock()
	defer s.toApp.mu.Unlock()
	return s.toApp.waiting.size > 0 && s.toApp.waiting.size <= earlyEnough
}

// answerSoon has a stream's header block written with whatever is written next, or after
// answerPause.
func (w *writer) answerSoon(s *Stream, block []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	first := len(w.answers) == 0
	s.readShort = true // its app has said nothing yet: a turn asks before it reads
	w.answers = h2.AppendBlock(w.answers, s.id, 0, block, w.peerFrame)
	switch {
	case w.late == nil:
		w.late = time.AfterFunc(answerPause, w.answerLate)
	case first:
		w.late.Reset(answerPause)
	}
}

func (w *writer) answerLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer()
	w.kick()
}

// answer queues the answers that wait; mu is held.
func (w *writer) answer() {
	if len(w.answers) > 0 {
		w.control = append(w.control, w.answers...)
		w.dropAnswers()
	}
}

// dropAnswers forgets them; mu is held.
func (w *writer) dropAnswers() {
	if len(w.answers) > 0 {
		w.answers = w.answers[:0]
		w.late.Stop()
	}
}
