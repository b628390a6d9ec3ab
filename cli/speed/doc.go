// SPDX-License-Identifier: Apache-2.0

// Package speed measures what a path between two places carries: how many bytes, how fast
// an answer comes, how long a connection takes. It is for the user's own question about the
// user's own network; ours of how Culvert compares is bench's.
//
// A client says in eight bytes what it wants and waits for one byte, so that both ends of
// whatever lies between have said yes. Then:
//
//	bulk      it writes until its time is over and ends its half; the server answers
//	          with the number of bytes that came, in eight bytes
//	request   it writes 64 bytes and reads as many, one after the other
//	connect   nothing: it closes, and begins anew
//
// Several targets are measured by turns, so that what changes on the machines meanwhile
// changes for all of them; a result is the median of the turns.
package speed
