// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What must be true of every talk, whatever the weather:
//
//   - an app reads what the other said, in order: never another byte, never more
//   - an end that looks clean comes behind the last byte of an app that ended cleanly
//   - only one server hears anything of a client
//   - each connection is recorded, once at each end, but for those that the log
//     says it omits
//   - `ok` is said only if both apps got all that they were still reading for, unless
//     the other end says that it gave up what its kernel had acknowledged
//
// And of one that no cut, outage or restart came near:
//
//   - only its apps end it: both are whole and `ok` if both send FIN, and an
//     answer arrives before the reset behind it
//   - no certificate runs out, and no CONNECT stays without an answer

// recordPatience is for records of connections whose bytes are still on their way
// when the app has long gone: as long as any app reads something, they may be. A
// tunnel that something on the way forgot is known for dead after 20 to 30 s.
const recordPatience = time.Minute

// judge waits for the records of a talk whose client is done, and weighs all.
func (t *talk) judge() {
	outbound, inbound := t.await()
	t.ended = time.Now()
	calm := t.talks.weather.calm(t.begun, t.ended)
	say := func(what string) {
		if calm {
			what += ", in calm weather"
		}
		t.talks.fault(what, "%v%s", t, t.talks.weather.during(t.begun, t.ended))
	}
	t.judgeBytes(say)
	t.judgeRecords(say, calm, outbound, inbound)
	if calm {
		t.judgeCalm(say, outbound, inbound)
	}
	t.talks.count(t, outbound, calm)
	t.talks.end(t)
}

func (ts *talks) count(t *talk, outbound []record, calm bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, r := range outbound {
		ts.words[r.result]++
		if r.beside && r.result == "ok" {
			ts.beside++
		}
	}
	if calm {
		ts.strong++
	}
	for _, a := range t.apps() {
		ts.bytes += a.got.Load()
	}
}

// breaks reports that an app resets by its plan: of such, only samples are recorded.
func (t *talk) breaks() bool { return t.parts[0].end == rude || t.parts[1].end == rude }

// miss counts records that did not come.
func (ts *talks) miss(t *talk, n int) {
	if n == 0 {
		return
	}
	text := t.String() + ts.weather.during(t.begun, t.ended)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.missing < told {
		fmt.Printf("stress: %d records missing: %s\n", n, text)
	}
	ts.missing += n
}

func (t *talk) apps() (all []*app) {
	if t.client != nil {
		all = append(all, t.client)
	}
	return append(all, t.servers...)
}

// await returns the records once there is one for each end.
func (t *talk) await() (outbound, inbound []record) {
	moved, since := t.talks.progress.Load(), time.Now()
	for ; ; time.Sleep(5 * time.Millisecond) {
		outbound, inbound = nil, nil
		for _, r := range t.talks.ledger.all(t.dst) {
			if r.direction == "outbound" {
				outbound = append(outbound, r)
			} else {
				inbound = append(inbound, r)
			}
		}
		t.mu.Lock()
		complete := (t.dialErr != nil || len(outbound) >= 1) && len(inbound) >= len(t.servers)
		if now := t.talks.progress.Load(); t.playing > 0 || now != moved && !t.breaks() {
			moved, since = now, time.Now()
		}
		t.judged = t.playing == 0 && (complete || time.Since(since) > recordPatience)
		judged := t.judged
		t.mu.Unlock()
		if judged {
			return outbound, inbound
		}
	}
}

func (t *talk) judgeBytes(say func(string)) {
	hearing := 0
	for _, s := range t.servers {
		if s.got.Load() > 0 {
			hearing++
		}
		if s.clean() && !t.endedBefore(t.client, s) {
			say("the server read a clean end that the client did not make")
		}
	}
	if hearing > 1 {
		say("two servers heard the client")
	}
	for _, a := range t.apps() {
		if a.wrong >= 0 {
			say("another byte arrived than was sent")
		}
	}
	if t.client == nil || !t.client.clean() {
		return
	}
	for _, s := range t.servers {
		if t.endedBefore(s, t.client) {
			return
		}
	}
	say("the client read a clean end that no server made")
}

// endedBefore reports that speaker sent FIN, and hearer got all of it.
func (t *talk) endedBefore(speaker, hearer *app) bool {
	return speaker != nil && speaker.finished.Load() && speaker.sent.Load() == hearer.got.Load()
}

func (t *talk) judgeRecords(say func(string), calm bool, outbound, inbound []record) {
	if len(outbound) > 1 {
		say("two outbound records")
	}
	missing := len(t.servers) - min(len(inbound), len(t.servers))
	if t.client != nil && len(outbound) == 0 {
		missing++
	}
	t.talks.miss(t, missing)
	for _, ends := range [][2][]record{{outbound, inbound}, {inbound, outbound}} {
		if said(ends[0], "ok") && !t.whole() && (calm || !gaveUp(ends[1])) {
			say(ends[0][0].direction + " record says ok, but not all arrived")
		}
	}
}

// gaveUp reports that an end says of itself that it ended the connection: the
// other's TCP may have had its acknowledgement by then.
func gaveUp(records []record) bool { return said(records, "expired") || said(records, "drained") }

// whole reports that some server and the client got all, but for what an app
// left without reading.
func (t *talk) whole() bool {
	for _, s := range t.servers {
		if t.client != nil && gotAll(t.client, s) && gotAll(s, t.client) {
			return true
		}
	}
	return false
}

func gotAll(speaker, hearer *app) bool {
	return hearer.broke || hearer.got.Load() == speaker.sent.Load()
}

func (t *talk) judgeCalm(say func(string), outbound, inbound []record) {
	for _, r := range append(outbound, inbound...) {
		switch {
		case r.result == "expired":
			say("certificates ran out")
		case strings.Contains(r.why, "none in 20s"):
			say("a CONNECT without an answer")
		}
	}
	client, server := t.parts[0].end, t.parts[1].end
	switch {
	case client == inOrder && server == inOrder:
		// A CONNECT that is tried elsewhere may leave a server behind that is reset.
		if !t.whole() || !said(outbound, "ok") || !said(inbound, "ok") {
			say("nobody broke it off, and it is not whole or not ok")
		}
	case client == inOrder && server == curt:
		if len(t.servers) == 0 || !gotAll(t.servers[len(t.servers)-1], t.client) {
			say("an answer was lost to the reset behind it")
		}
	}
}

// said reports that one of the records has that result.
func said(records []record, result string) bool {
	return slices.ContainsFunc(records, func(r record) bool { return r.result == result })
}
