// SPDX-License-Identifier: Apache-2.0

package main

// Keys of log records.
const (
	logAddress     = "address"
	logError       = "error"
	logTrustDomain = "trust_domain"
)
