// SPDX-License-Identifier: Apache-2.0

package server

// Keys of log records.
const (
	logCaller    = "caller"
	logCode      = "code"
	logError     = "error"
	logFrom      = "from"
	logIdentity  = "identity"
	logIssuer    = "issuer"
	logKeySHA256 = "key_sha256"
	logMethod    = "method"
	logNode      = "node"
	logNotAfter  = "not_after"
	logNotBefore = "not_before"
	logOmitted   = "omitted"
	logPod       = "pod"
	logPodUID    = "pod_uid"
	logReason    = "reason"
	logRefusal   = "refusal"
	logSerial    = "serial"
	logStack     = "stack"
	logToken     = "token"
	logTook      = "took"
)
