// SPDX-License-Identifier: Apache-2.0

// Package report tells Kubernetes' users how the pods of this node are: by the
// annotation culvert.dev/status on each pod, and by Events on pods and on the Node. It
// tells the CA what this ztunnel does with policies.
//
//	report.go  what is so, beside what the API server shows; once a second
//	pod.go     one pod: what is told of it, and when
//	words.go   the Events that a change is worth
//	node.go    the Node: whether it is ready, and its taint
//	claim.go   ztunnel's own pod: what this version does with policies
//	event.go   Events, alike ones counted in one object
//	write.go   requests: bounded, and none while the API server is away
//	log.go     the keys of log attributes
//
// It follows states and keeps no queue. While the API server is away, or more changes
// than may be written, a status is written later, as it is by then; an Event is dropped
// and counted. Nobody waits for it, and nothing that it wrote is believed by anybody:
// the annotation is read only to see whether it has to be written.
package report
