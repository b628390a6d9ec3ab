// SPDX-License-Identifier: Apache-2.0

package taint

// Keys of log records.
const (
	logAway    = "away"
	logError   = "error"
	logFor     = "for"
	logNode    = "node"
	logNodes   = "nodes"
	logTaint   = "taint"
	logTainted = "tainted"
)
