// SPDX-License-Identifier: Apache-2.0

package ledger

// Keys of log records.
const (
	logAnchor    = "anchor"
	logDirectory = "directory"
	logError     = "error"
	logFile      = "file"
	logFirst     = "first"
	logFor       = "for"
	logKind      = "kind"
	logLast      = "last"
	logWhy       = "why"
)
