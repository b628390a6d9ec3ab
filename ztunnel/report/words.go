// SPDX-License-Identifier: Apache-2.0

package report

import "github.com/culvert-mesh/culvert/ztunnel/pods"

// change is what an Event says. Without a reason there is nothing to say.
type change struct {
	warning         bool
	reason, message string
}

// bad are the statuses that are worth a warning. What follows the message is why.
var bad = map[string]change{
	"enrolled":       {true, "NotVerified", "it is enrolled, but the kernel does not confirm that: "},
	pods.Uncertified: {true, "NotCertified", "it has no certificate, so that its connections are refused: "},
	"unprotected":    {true, "NotProtected", "it is in the mesh, but its connections are in plaintext: "},
	"pending":        {true, "NotEnrolled", "labels put it in the mesh, but it is not enrolled: "},
	"outside":        {true, "NotEnrolled", "labels put it in the mesh, but it cannot be enrolled: "},
	"undecided":      {true, "Refused", "its connections are refused: "},
	"lost":           {true, "Refused", "its connections are refused: "},
}

// changeOf says what it means that a pod's status was one and is now another.
func changeOf(before string, now pods.Condition) change {
	in := wasIn(before)
	switch {
	case now.Status == pods.Verified && in:
		return change{false, "Restored", "the kernel confirms again that its connections are carried, and it has a certificate"}
	case now.Status == pods.Verified:
		return change{false, "Enrolled", "its connections are carried in mutual TLS, as " + now.Identity}
	case now.Status == "" && in:
		return change{false, "Unenrolled", "it is not in the mesh any more: new connections are not carried, open ones are until they end"}
	case now.Status == "":
		return change{}
	}
	c := bad[now.Status]
	c.message += now.Why
	return c
}

// wasIn reports whether a pod of that status was in the mesh.
func wasIn(status string) bool {
	switch status {
	case pods.Verified, pods.Uncertified, "enrolled", "unprotected", "undecided", "lost":
		return true
	}
	return false
}
