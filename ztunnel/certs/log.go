// SPDX-License-Identifier: Apache-2.0

package certs

// Keys of log records.
const (
	logAdded       = "added"
	logAgain       = "again"
	logBundle      = "bundle" // identity.BundleHash
	logCount       = "count"
	logEntries     = "entries"
	logError       = "error"
	logGeneration  = "generation"
	logIdentity    = "identity"
	logLater       = "later_generation"
	logPath        = "path"
	logReason      = "reason"
	logRemoved     = "removed"
	logRoots       = "roots"
	logSerial      = "serial"
	logTook        = "took"
	logTrustDomain = "trust_domain"
	logUntil       = "until"
)
