// SPDX-License-Identifier: Apache-2.0

package certs

// Keys of log records.
const (
	logAgain       = "again"
	logBundle      = "bundle" // identity.BundleHash
	logCount       = "count"
	logError       = "error"
	logGeneration  = "generation"
	logIdentity    = "identity"
	logPath        = "path"
	logReason      = "reason"
	logRoots       = "roots"
	logSerial      = "serial"
	logTook        = "took"
	logTrustDomain = "trust_domain"
	logUntil       = "until"
)
