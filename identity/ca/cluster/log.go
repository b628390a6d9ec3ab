// SPDX-License-Identifier: Apache-2.0

package cluster

// Keys of log records.
const (
	logError       = "error"
	logIssuerUntil = "issuer_until"
	logObject      = "object"
	logRootUntil   = "root_until"
	logSerial      = "serial"
)
