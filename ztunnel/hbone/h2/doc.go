// SPDX-License-Identifier: Apache-2.0

// Package h2 is the wire format of a tunnel: the frames of HTTP/2 (RFC 9113) and
// the header lists of a CONNECT and its answer. It takes no lock, knows no stream
// and does no I/O: the bytes of a peer go in, in pieces of any size, and frames or a
// Violation come out; what we send is appended to a buffer.
//
//	frame.go      what a frame looks like, and how we write one
//	parser.go     the peer's bytes, cut into frames, and what a frame may not be
//	header.go     header lists, encoded and decoded
//	plain.go      the same without HPACK's state, for lists like those that we send
//	malformed.go  what a header list may not be
//	code.go       error codes, and the Violation that ends a tunnel
//	limits.go     how much of all that a peer may send
//
// Its oracle in tests is the Framer of x/net.
package h2
