// SPDX-License-Identifier: Apache-2.0

package federation

// Keys of log attributes.
const (
	logError       = "error"
	logPath        = "path"
	logTrustDomain = "trust_domain"
	logNumber      = "number"
	logSequence    = "sequence"
	logRoots       = "roots"
)
