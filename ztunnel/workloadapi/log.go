// SPDX-License-Identifier: Apache-2.0

package workloadapi

// Keys of log records.
const (
	logPod     = "pod"
	logRefused = "refused" // connections since the last record
)
