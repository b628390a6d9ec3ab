// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// app is one end of a talk: it plays its part on a socket and knows what it
// should hear.
type app struct {
	part
	says, hears pattern
	conn        *net.TCPConn
	progress    *atomic.Int64 // of all apps

	sent, got atomic.Int64
	heard     chan struct{} // closed once it read what it waits for, or reads no more
	left      chan struct{} // closed when it leaves without reading to the end
	finished  atomic.Bool   // it said all, and its FIN or close followed
	broke     bool          // by its own plan it ended with a reset, or may have
	wrong     int           // place of the first byte that was another, -1 if none was
	read      outcome       // io.EOF: a clean end
	wrote     outcome
}

// outcome is the error that a direction of an app ended with; none yet, or none.
type outcome struct{ atomic.Pointer[error] }

func (o *outcome) err() error {
	if err := o.Load(); err != nil {
		return *err
	}
	return nil
}

func newApp(p part, conn *net.TCPConn, says, hears pattern, progress *atomic.Int64) *app {
	return &app{part: p, conn: conn, says: says, hears: hears, progress: progress, wrong: -1,
		heard: make(chan struct{}), left: make(chan struct{})}
}

// play returns when the app is done with its socket.
func (a *app) play() {
	var reading sync.WaitGroup
	reading.Go(a.listen)
	<-a.heard
	err := a.speak()
	a.wrote.Store(&err)
	switch {
	case err != nil:
	case a.end == inOrder:
		a.finished.Store(a.conn.CloseWrite() == nil)
	case a.end == rude:
		a.leave(true)
	case a.end == curt:
		a.leave(false)
	}
	reading.Wait()
	a.conn.Close()
}

// leave closes the socket under the reader.
func (a *app) leave(reset bool) {
	a.broke = true
	close(a.left)
	if reset {
		a.conn.SetLinger(0)
	} else {
		a.finished.Store(true)
	}
	a.conn.Close()
}

// listen reads until the end, and compares.
func (a *app) listen() {
	waiting := true
	hear := func() {
		if waiting {
			waiting = false
			close(a.heard)
		}
	}
	defer hear()
	if a.first == 0 {
		hear()
	}
	got, want := make([]byte, a.gulp), make([]byte, a.gulp)
	for deaf := a.deaf; ; {
		gulp := got
		if a.end == curt { // what it does not wait for, it does not read
			if a.first <= int(a.got.Load()) {
				return
			}
			gulp = got[:min(len(got), a.first-int(a.got.Load()))]
		}
		n, err := a.conn.Read(gulp)
		at := int(a.got.Load())
		a.hears.fill(want[:n], at)
		if a.wrong < 0 && !bytes.Equal(gulp[:n], want[:n]) {
			a.wrong = at
		}
		a.progress.Add(int64(n))
		if a.got.Add(int64(n)) >= int64(a.first) {
			hear()
		}
		if err != nil {
			a.read.Store(&err)
			return
		}
		a.sleep(a.rest)
		if deaf > 0 && int(a.got.Load()) >= a.deafAt {
			a.sleep(deaf)
			deaf = 0
		}
	}
}

// speak says all.
func (a *app) speak() error {
	buf := make([]byte, a.piece)
	for sent := 0; sent < a.send; {
		b := buf[:min(a.piece, a.send-sent)]
		a.says.fill(b, sent)
		if err := a.utter(b, sent); err != nil {
			return err
		}
		sent += len(b)
		a.sent.Store(int64(sent))
		a.sleep(a.pause)
	}
	return nil
}

func (a *app) utter(b []byte, at int) error {
	if a.urgent && at/len(b)%8 == 3 {
		if err := urgent(a.conn, b[0]); err != nil {
			return err
		}
		b = b[1:]
	}
	if len(b) == 0 {
		return nil
	}
	_, err := a.conn.Write(b)
	return err
}

// sleep pauses, unless the app has left.
func (a *app) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-a.left:
	}
}

// clean reports that it read to a clean end. The kernel tells of a reset once: if
// that was to a write, the reads behind it look clean.
func (a *app) clean() bool { return a.read.err() == io.EOF && a.wrote.err() == nil }
