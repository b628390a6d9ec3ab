// SPDX-License-Identifier: Apache-2.0

// Package hbone carries app connections between nodes: each is one HTTP/2
// CONNECT stream in a mutually authenticated TLS connection, the tunnel.
//
// A Pool opens streams for one pod sandbox, a Listener hands over those that
// arrive at one. Both end in a Stream, which owns the app's socket while it
// carries it:
//
//	app → the stream waits for its turn (carry.go) → one of the waiting streams
//	      leads (writer.go): it reads from the apps of all straight into the records
//	      of one batch, between frame headers (pack.go), and writes it, or leaves that
//	      to a goroutine if the socket is full. A batch holds no more than the path
//	      moves in a moment (pace.go)
//	app ← the tunnel's reader cuts frames (package h2) and writes DATA to the app's
//	      socket at once, without blocking; what does not fit is queued up to the
//	      stream's window and left to a goroutine of the stream (receive.go, deliver.go)
//
// So a byte changes goroutines only when an app is slower than its peer, and
// no app can stop the tunnel's reader. A stream's window is granted again only when
// the app took the bytes, and grows while the app reads; the tunnel's is granted again
// as bytes leave the wire (window.go). So no stream waits for another's app, and what is
// held for apps that do not read is bounded, by pod and by process (memory.go).
//
// A Pool trusts a tunnel with what an app says first (early.go) while it is heard, and
// leaves one that is silent or takes nothing (pulse.go). It keeps those bytes until the
// answer: a stream that the peer did nothing for is opened elsewhere, with the same
// bytes. How many streams a peer takes is known only after the first (room.go).
//
// A tunnel without streams rests: until the peer says something, or a timer of the
// tunnel fires, no goroutine has to do with it.
//
// What the app says is sent by the stream's sender, whose states are (turn.go):
//
//	state     what it means                                    what may follow
//	idle      its pump is at work, or there is no app yet      waiting, queued, ended
//	waiting   the app has said all for now                     idle, ended
//	queued    it waits for its turn                            idle, reading, ended
//	reading   a leader reads from the app                      idle, waiting, queued, dropping, ended
//	dropping  a leader still reads, but no more is to be sent  ended
//	ended     no more is sent                                  nothing
//
// What the peer sends on a stream is taken by a receiver, whose states are:
//
//	state    what it means                                     what may follow
//	open     more may come                                     ended, cut, deaf, severed
//	ended    the peer sent END_STREAM; bytes may wait          told, cut, deaf, severed
//	told     the app has all bytes, and got a FIN              cut, deaf, severed
//	cut      the peer sent RST_STREAM; bytes may wait          deaf, severed
//	deaf     the app broke off: what comes is dropped,         severed
//	         what it sent before is still read
//	severed  the app is reset                                  nothing
//
// A stream that ends in order stops at told. So an app gets what the other app sent
// before a reset, and then the reset (parting.go).
//
// Places are few: for tunnels at a Listener (census.go), for sockets of a pod
// (share.go). Idle tunnels make room for whoever comes, those of the peer with
// most first.
//
// Every stream and tunnel ends with an error that is a Cause, the word of the
// access record, or with none if both sides closed in order and the peer's TCP has
// acknowledged our last bytes (acknowledge.go). So the app has its FIN at once, and
// its record a little later. What was sent before a tunnel ends arrives, however
// long that takes, as long as it gets on (depart.go); what ends it sooner makes the
// records of the streams concerned say so:
//
//	rotation, idleness, the peer's GOAWAY   15 s without an acknowledgement: reset
//	expiry of the certificates              the same
//	Drain                                   the end of its context: drained
//	Close                                   a second: drained
//	Retire(Denied)                          a second: denied
//	the peer's violation                    a second
//	a path that is dead, or a reset         at once: reset
//
// Handshakes, of both sides and all pods, go through one Gate (gate.go), so that a
// flood of them leaves processors to the tunnels that there are.
//
// Locks: Pool.mu or Listener.mu, then conn.mu. Gate.mu is a leaf. A Stream's own mu
// is one too, and is never held together with another.
package hbone
