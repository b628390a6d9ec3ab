// SPDX-License-Identifier: Apache-2.0

package otlp

// Keys of log attributes.
const (
	logEndpoint = "endpoint"
	logRecords  = "records"
	logError    = "error"
)
