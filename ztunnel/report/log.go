// SPDX-License-Identifier: Apache-2.0

package report

// Keys of log records.
const (
	logError = "error"
	logTaint = "taint"
	logWhat  = "what"
)
