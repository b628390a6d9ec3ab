// SPDX-License-Identifier: Apache-2.0

// Package hbone carries app connections between nodes: each is one HTTP/2
// CONNECT stream in a mutually authenticated TLS connection, the tunnel.
//
// A Pool opens streams for one pod sandbox, a Listener hands over those that
// arrive at one. Both end in a Stream, which owns the app's socket while it
// carries it:
//
//	app → the stream waits for its turn (writer.go) → one of the waiting streams
//	      leads (lead.go): it reads from the apps of all straight into the records
//	      of one batch, between frame headers (pack.go), and writes it, or leaves that
//	      to a goroutine if the socket is full. A batch holds no more than the path
//	      moves in a moment (pace.go)
//	app ← the tunnel's reader cuts frames (package h2) and writes DATA to the app's
//	      socket at once, without blocking; what does not fit is queued up to the
//	      stream's window and left to a goroutine of the stream (receive.go, deliver.go)
//
// So a byte changes goroutines only when an app is slower than its peer, and no app can
// stop the tunnel's reader. A stream's window is granted again only when the app took
// the bytes, and grows while the app reads; the tunnel's is granted again as bytes leave
// the wire (window.go). So no stream waits for another's app, and what is held for apps
// and peers that do not read is bounded, by pod and by process (memory.go).
//
// A Pool trusts a tunnel with what an app says first (early.go) while it is heard, and
// leaves one that is silent or takes nothing (pulse.go), for whatever it wants of it: an
// answer, a Guard (guard.go, ask.go), or room. It keeps those bytes until the answer: a
// stream that the peer did nothing for is opened elsewhere, with the same bytes. How many
// streams a peer takes is known only after the first (room.go).
//
// A tunnel without streams rests, if none came for a second after its handshake, or at a
// tick: until the peer says something, or a timer of the tunnel fires, no goroutine has to do
// with it. Nor has one with a stream whose app and peer are silent for half a tick of the
// tunnel (park.go).
//
// The files, along the way of a connection. A Pool finds or makes a tunnel:
//
//	pool.go         Pool: opens streams by key, retries them, retires and drains tunnels
//	target.go       where a stream is to end, and what describes its peer
//	shard.go        the tunnel of a key with the fewest streams, and others beside a busy one
//	room.go         how many streams a peer takes, and waiting until it takes one
//	dial.go         one dial for all callers that wait; renewal before certificates end
//	move.go         younger tunnels for what is open in those to be left, until one came
//	share.go        places: the sockets that a pod may have, of which idle tunnels give theirs
//	yield.go        ends idle tunnels when others need their places
//	tunnel.go       what a configuration dump says of a tunnel
//
// A Listener meets it:
//
//	listener.go     Listener: accepts tunnels and their streams, retires and drains them
//	meet.go         from an accepted socket to a tunnel, or to a refusal
//	census.go       how many tunnels each peer has, and whose make room
//	dismiss.go      those that were asked to make room, and may stay
//
// Both shake hands:
//
//	gate.go         Gate: lets handshakes of all pods and both sides in, and compute
//	account.go      what the Gate knows of an address, a network or a pod: tunnels, debt
//	turnstile.go    the socket of a handshake, which computes only while it has a slot
//	wire.go         TLS by package record or by crypto/tls, and who the peer is
//	std.go          crypto/tls's records, many a syscall
//	aes256.go       AES-256 first, with a build tag, for comparisons
//	tlssocket.go    the socket below it, which gathers what is written and reads ahead
//
// The tunnel lives and ends:
//
//	conn.go         conn: one tunnel of either role, from its first frames to its failure
//	reader.go       its reader: from a read to frames; the rest of a tunnel without streams
//	partial.go      frames and header blocks whose rest is to come
//	request.go      HEADERS: a request at a server, an answer at a client
//	control.go      SETTINGS, PING, RST_STREAM, and GOAWAY of both kinds
//	flow.go         what DATA takes of windows and WINDOW_UPDATE adds; faults of a peer
//	window.go       how large the windows are that we grant, and when
//	memory.go       Memory: what a pod's share of the process' bytes lets it hold
//	memory_size.go  how many bytes that are, by GOMEMLIMIT or the limit of a cgroup
//	limits.go       every limit and deadline
//	rtt.go          what the kernel knows of the tunnel's socket
//	pulse.go        whether a tunnel is alive enough for what an app says first, and when it is left
//	clock.go        its timers: PING, idleness, expiry, renewal
//	reprove.go      whether its certificates still hold when the roots have changed
//	prove.go        whether a tunnel is there, or can be made, that answers now
//	guard.go        Guard: keeps a tunnel for bytes that go beside it, on one node
//	ask.go          whether a tunnel answers the PING without which no Guard is given
//	acknowledge.go  whether the last bytes of a stream arrived at the peer
//	depart.go       how long the socket of a tunnel that ended stays open
//	errors.go       Cause: the word for an end, and the errors that bear one
//
// A stream sends what its app says:
//
//	stream.go       Stream: accepted, rejected, reset, over
//	early.go        the app's first bytes, along with the CONNECT
//	carry.go        Carry: joins stream and app; the pump, which waits for the app's bytes
//	park.go         an idle stream does without the pump's goroutine
//	turn.go         sender: its states, and the rings in which streams wait for a turn
//	answer.go       answers that wait to go with other bytes
//	writer.go       writer: what waits to be sent, and the two entrances to have it written
//	lead.go         the leader: who writes the batches, and who takes over
//	pack.go         one batch: control frames, then the bytes of one app after the other
//	pace.go         how much a batch may hold on a slow path
//
// and hands its app what the peer says:
//
//	deliver.go      the steps that follow from what the receiver did
//	receive.go      receiver: its states, and what happens to bytes in each
//	vector.go       a write of many pieces to the app's socket
//	queue.go        bytes that the app did not take yet
//	parting.go      a side that breaks off: what it sent before still arrives
//	settle.go       whether the last bytes arrived at the app
//
// What the app says is sent by the stream's sender, whose states are (turn.go):
//
//	state     what it means                                    what may follow
//	idle      its pump decides what follows, or there is none  queued, ended
//	waiting   the app has said all for now; if it is silent    idle, ended
//	          for long, there is no pump but a parked stream
//	queued    it waits for its turn                            idle, waiting, reading, ended
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
// A stream that both sides have ended stops at told. So an app gets what the other app sent
// before a reset, and then the reset (parting.go).
//
// Places are few: for tunnels that arrive at a pod (census.go), for sockets of a pod
// (share.go). Idle tunnels make room for newcomers, those of the peer with most first.
//
// Every stream and tunnel ends with an error that is a Cause, the word of the
// access record, or with none if both sides sent END_STREAM, the peer's TCP has
// acknowledged our last bytes (acknowledge.go), and our app's TCP the peer's
// (settle.go): each end of a stream proves its own two legs. So the app has its FIN
// at once, and its record a little later. An app that reads slowly is waited for as
// long as it gets on: 15 s without an acknowledgement are a reset, and who closes the
// stream, or all of them, is not waited for.
//
// What was sent before a tunnel ends arrives, however long that takes, as long as it
// gets on (depart.go); what ends it sooner makes the records of the streams concerned
// say so:
//
//	rotation, idleness, the peer's GOAWAY   15 s without an acknowledgement: reset
//	expiry of the certificates              the same
//	Drain                                   the end of its context: drained
//	Close                                   a second: drained
//	Retire(Denied), Reprove                 a second: denied
//	the peer's violation                    a second
//	a path that is dead, or a reset         at once: reset
//
// Handshakes, of both sides and all pods, go through one Gate (gate.go), so that a
// flood of them leaves processors to the tunnels that there are.
//
// Locks: Pool.mu, Listener.mu or Guard.mu first, never two of them; then Census.mu; then
// one conn.mu; then its writer.mu.
// Gate.mu, receiver.mu, places.mu and tolerance.mu are leaves: under them no other lock
// of this package is taken. Hooks, and the app of a stream that ended, are called
// without conn.mu (conn.unlock).
//
// conn.mu guards what is known of a tunnel and its streams, writer.mu what waits to be sent
// and who writes it. Bytes need one of them at a time: the reader takes conn.mu, the leader
// writer.mu, so neither waits for the other. Both are held where one step concerns both:
// when a stream is opened, answered, reset or over, when a window is granted, for SETTINGS,
// GOAWAY and a tick. A leader releases writer.mu before it locks conn.mu. When it finds that
// an app has finished it locks conn.mu and then writer.mu again, for END_STREAM and what
// follows from it for the tunnel are one step. Three things need their order:
//
//   - a stream stops sending before its RST_STREAM is queued (conn.reset);
//   - SETTINGS are applied and answered in one hold of writer.mu (writer.adopt);
//   - whoever leads reports the end of a write before leading ends (endLeadUnlocking): so if
//     nobody leads, all that was packed was written (conn.mark).
package hbone
