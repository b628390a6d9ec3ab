// SPDX-License-Identifier: Apache-2.0

package deny

// Keys of log records.
const (
	logEntry  = "entry"
	logError  = "error"
	logSource = "source"
)
