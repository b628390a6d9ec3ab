// SPDX-License-Identifier: Apache-2.0

package install

// Keys of log records.
const (
	logDir   = "dir"
	logError = "error"
	logFile  = "file"
	logHint  = "hint"
	logPods  = "pods"
	logTimes = "times"
	logWait  = "wait"
)
