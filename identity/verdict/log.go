// SPDX-License-Identifier: Apache-2.0

package verdict

// Keys of log records.
const (
	logError  = "error"
	logHolder = "holder"
	logLease  = "lease"
	logObject = "object"
)
