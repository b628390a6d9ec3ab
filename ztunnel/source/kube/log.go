// SPDX-License-Identifier: Apache-2.0

package kube

// Keys of log records.
const (
	logError     = "error"
	logKind      = "kind"
	logObject    = "object"
	logOmitted   = "omitted"
	logPath      = "path"
	logServer    = "server"
	logVersion   = "version"
	logWorkloads = "workloads"
	logWritten   = "written"
)
