// SPDX-License-Identifier: Apache-2.0

package ztunnel

// Keys of log records.
const (
	logError       = "error"
	logNode        = "node"
	logTrustDomain = "trust_domain"
	logVersion     = "version"
)
