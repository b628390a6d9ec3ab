// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// answersWait has answers wait for so long until the test ends. It is called before there
// is a tunnel.
func answersWait(t *testing.T, pause time.Duration) {
	before := answerPause
	answerPause = pause
	t.Cleanup(func() { answerPause = before })
}

// awaitEarly returns when so many bytes of the peer's app are there.
func awaitEarly(t *testing.T, s *Stream, n int) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		s.toApp.mu.Lock()
		held := s.toApp.waiting.size
		s.toApp.mu.Unlock()
		if held >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d of %d early bytes came", held, n)
			return
		}
	}
}

// still has the listener's tunnels say nothing by the clock: a PING takes answers along.
func (l *link) still() {
	for _, c := range l.ln.all() {
		c.mu.Lock()
		c.ticker.Stop()
		c.unlock()
	}
}

// frames reads the frames of one record.
func (p *rawPeer) frames() (kinds []http2.FrameType) {
	p.t.Helper()
	record := make([]byte, 32<<10)
	n, err := p.conn.Read(record)
	if err != nil {
		p.t.Fatal(err)
	}
	fr := http2.NewFramer(nil, bytes.NewReader(record[:n]))
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return kinds
		}
		kinds = append(kinds, f.Header().Type)
	}
}

func TestTheAnswerToEarlyBytesGoesWithTheAppsOwn(t *testing.T) {
	answersWait(t, time.Hour)
	said := []byte("early")
	l := newLink(t, func(s *Stream) {
		awaitEarly(t, s, len(said))
		if err := s.Accept(); err != nil {
			t.Error(err)
		}
		near, app := socketPair(t)
		go func() {
			app.Read(make([]byte, len(said)))
			app.Write([]byte("and back"))
		}()
		carryAll(s, near)
	})
	p := l.greetedClient()
	l.still()
	p.wantAlive() // all else is said
	p.must(p.connect(1))
	p.must(p.WriteData(1, false, said))
	kinds := p.frames()
	if len(kinds) != 2 || kinds[0] != http2.FrameHeaders || kinds[1] != http2.FrameData {
		t.Errorf("%v in a record, want the answer and what the app says", kinds)
	}
}

func TestTheAnswerDoesNotWaitForAnAppThatSaysNothing(t *testing.T) {
	l := newLink(t, func(s *Stream) {
		awaitEarly(t, s, 1)
		s.Accept()
		<-s.Done()
		s.Reset()
	})
	p := l.greetedClient()
	l.still()
	for _, id := range []uint32{1, 3} { // the answer after one that waited is not forgotten
		p.must(p.connect(id))
		p.must(p.WriteData(id, false, []byte("early")))
		p.until(is[*http2.MetaHeadersFrame])
	}
}

func TestAPeerThatWaitsForTheAnswerHasItAtOnce(t *testing.T) {
	answersWait(t, time.Hour)
	for name, early := range map[string]int{"with nothing early": 0, "with its share nearly full": earlyEnough + 1} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t, func(s *Stream) {
				awaitEarly(t, s, early)
				s.Accept()
				<-s.Done()
				s.Reset()
			})
			p := l.greetedClient()
			l.still()
			p.must(p.connect(1))
			if early > 0 {
				p.must(p.WriteData(1, false, make([]byte, early)))
			}
			p.until(is[*http2.MetaHeadersFrame])
		})
	}
}

// A reset must not come before the answer of its stream, and takes those of others along.
func TestAResetFollowsTheAnswerThatWaits(t *testing.T) {
	answersWait(t, time.Hour)
	accepted := make(chan *Stream, 2)
	l := newLink(t, func(s *Stream) {
		awaitEarly(t, s, 1)
		s.Accept()
		accepted <- s
	})
	p := l.greetedClient()
	p.wantAlive()
	for _, id := range []uint32{1, 3} {
		p.must(p.connect(id))
		p.must(p.WriteData(id, false, []byte("early")))
	}
	first, second := <-accepted, <-accepted
	first.Reset()
	answered := map[uint32]bool{}
	for reset := false; !reset || len(answered) < 2; {
		switch f := p.until(func(http2.Frame) bool { return true }).(type) {
		case *http2.MetaHeadersFrame:
			answered[f.StreamID] = true
		case *http2.RSTStreamFrame:
			if reset = true; !answered[f.StreamID] {
				t.Errorf("stream %d is reset, and answered later", f.StreamID)
			}
		}
	}
	second.Reset()
}
