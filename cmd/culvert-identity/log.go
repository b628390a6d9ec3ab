// SPDX-License-Identifier: Apache-2.0

package main

// Keys of log records.
const (
	logAddress     = "address"
	logTrustDomain = "trust_domain"
)
