// SPDX-License-Identifier: Apache-2.0

package main

// Keys of log records.
const (
	logAddress     = "address"
	logDir         = "dir"
	logIssuerUntil = "issuer_until"
	logRootUntil   = "root_until"
	logTrustDomain = "trust_domain"
)
