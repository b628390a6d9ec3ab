// SPDX-License-Identifier: Apache-2.0

package pods

// Keys of log records.
const (
	logAddress   = "address"
	logAddresses = "addresses"
	logAllowed   = "allowed"
	logCookie    = "cookie"
	logDevices   = "devices"
	logError     = "error"
	logHost      = "host"
	logIdentity  = "identity"
	logInode     = "inode"
	logLimit     = "limit"
	logNetns     = "netns"
	logNetworks  = "networks"
	logNode      = "node"
	logOther     = "other"
	logPod       = "pod"
	logPort      = "port"
	logReason    = "reason"
	logRefused   = "refused"
	logSteered   = "steered"
	logTook      = "took"
	logWhat      = "what"
)
