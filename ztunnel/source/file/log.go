// SPDX-License-Identifier: Apache-2.0

package file

// Keys of log records.
const (
	logAfter   = "after"
	logDir     = "dir"
	logError   = "error"
	logFiles   = "files"
	logHeld    = "held"
	logObject  = "object"
	logObjects = "objects"
	logVersion = "version"
)
