// SPDX-License-Identifier: Apache-2.0

package process

// Keys of log records.
const (
	logAgain    = "again"
	logDir      = "dir"
	logError    = "error"
	logIdentity = "identity"
	logSerial   = "serial"
	logUntil    = "until"
)
