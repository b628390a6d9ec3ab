// SPDX-License-Identifier: Apache-2.0

package foreign

// Keys of log records.
const (
	logError = "error"
	logPath  = "path"
)
