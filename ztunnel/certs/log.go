// SPDX-License-Identifier: Apache-2.0

package certs

// Keys of log records.
const (
	logAgain       = "again"
	logError       = "error"
	logIdentity    = "identity"
	logReason      = "reason"
	logSerial      = "serial"
	logTrustDomain = "trust_domain"
	logUntil       = "until"
)
