// SPDX-License-Identifier: Apache-2.0

// Package record is the TLS 1.3 record layer of a tunnel (RFC 8446 §5). crypto/tls
// shakes hands; then its tls.Conn is dropped, and many records go through each
// syscall, sealed and opened where they lie:
//
//	handshake.go  crypto/tls over a socket that gives it no byte too many
//	conn.go       Conn: the connection after that
//	keys.go       traffic secrets, keys, nonces, the limits of a key
//	aead.go       AES-GCM, by package aead
//	receive.go    one read, up to 16 full records, opened in place
//	control.go    what is no application data: alerts, KeyUpdate, tickets
//	send.go       a Batch of plaintext, sealed in place, one write
//	batch.go      plaintext with gaps where headers and tags will be
//	buffer.go     the buffers of both directions, by size
//	rest.go       waiting without a goroutine, buffers and keys
//	errors.go     Error: the alert that ended a connection
//
// What the peer may not do ends the connection with an alert and an *Error.
// A connection that waits holds no buffer.
//
// One goroutine receives and any number send, one at a time. The receiving one
// never waits for the socket to take bytes: a KeyUpdate that is due goes ahead
// of the next Batch (RFC 8446 §4.6.3 asks for no more), an alert is tried once.
package record
