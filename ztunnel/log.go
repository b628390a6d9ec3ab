// SPDX-License-Identifier: Apache-2.0

package ztunnel

// Keys of log records.
const (
	logError       = "error"
	logOmitted     = "omitted"
	logNode        = "node"
	logWhat        = "what"
	logTrustDomain = "trust_domain"
	logVersion     = "version"
)
