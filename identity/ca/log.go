// SPDX-License-Identifier: Apache-2.0

package ca

// Keys of log records.
const (
	logChain       = "chain"
	logCode        = "code"
	logDefect      = "defect"
	logError       = "error"
	logFollows     = "follows"
	logGeneration  = "generation"
	logHolder      = "holder"
	logIssuerUntil = "issuer_until"
	logLayout      = "layout"
	logMend        = "mend"
	logReason      = "reason"
	logRenewal     = "renewal"
	logRoots       = "roots"
	logStore       = "store"
)
