// SPDX-License-Identifier: Apache-2.0

package h2

// What RFC 9113 says where nobody says otherwise.
const (
	DefaultFrameLimit = 16 << 10
	DefaultWindow     = 65535
	WindowLimit       = 1<<31 - 1
)

// What a peer may send before it is told to be calm.
const (
	FrameLimit        = 1 << 20  // largest frame we accept
	ClientHeaderLimit = 16 << 10 // bytes of a header list, encoded or not, in a response
	ServerHeaderLimit = 64 << 10 // the same in a request
	HeaderFieldLimit  = 64
	HeaderStringLimit = 8 << 10
	headerTableSize   = 4 << 10
	continuationLimit = 8
	SettingsLimit     = 100 // entries in one SETTINGS frame
	goAwayLimit       = 16 << 10
)
