// SPDX-License-Identifier: Apache-2.0

package cluster

// Keys of log records.
const (
	logError  = "error"
	logObject = "object"
	logReason = "reason"
)
