// SPDX-License-Identifier: Apache-2.0

package server

// Keys of log records.
const (
	logAccount   = "account"
	logBefore    = "before"
	logCaller    = "caller"
	logCode      = "code"
	logError     = "error"
	logRoot      = "root"
	logFrom      = "from"
	logIdentity  = "identity"
	logIssuer    = "issuer"
	logKeySHA256 = "key_sha256"
	logMethod    = "method"
	logLifetime  = "lifetime_by"
	logNode      = "node"
	logNodeUID   = "node_uid"
	logNotAfter  = "not_after"
	logNotBefore = "not_before"
	logObject    = "object"
	logOmitted   = "omitted"
	logPod       = "pod"
	logPodUID    = "pod_uid"
	logPods      = "pods"
	logDNSNames  = "dns_names"
	logProcess   = "process"
	logReason    = "reason"
	logRefusal   = "refusal"
	logSerial    = "serial"
	logStack     = "stack"
	logToken     = "token"
	logTook      = "took"
	logUID       = "uid"
	logUIDOf     = "account_uid"
)
