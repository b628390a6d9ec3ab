// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"strings"
)

// withoutAgain leaves each node in once, so that nothing of it counts twice. Two pods of
// ztunnel that are on one node while one replaces the other lead to the same process: one is
// left out. Otherwise whoever named them made a mistake, or a directory has dumps of before
// and after something: Twice tells it.
func withoutAgain(nodes []Node) (once []Node) {
	at := map[string]int{} // in once, by the node's name
	for _, n := range nodes {
		name := n.Dump.Config.NodeName
		if n.Problem != "" || name == "" {
			once = append(once, n)
			continue
		}
		i, again := at[name]
		switch {
		case !again:
			at[name], once = len(once), append(once, n)
		case n.counts(once[i]):
			former := once[i]
			once[i] = n
			once[i].leaveOut(former)
		default:
			once[i].leaveOut(n)
		}
	}
	return once
}

// counts reports whether an answer counts instead of a former one of the same node: that of a
// file if it is younger, else one that knows the mesh if the former came before ztunnel did.
func (n Node) counts(former Node) bool {
	if n.File {
		return n.Taken.After(former.Taken)
	}
	return len(n.Dump.Workloads) > 0 && len(former.Dump.Workloads) == 0
}

// leaveOut notes by which names an answer that does not count was found.
func (n *Node) leaveOut(other Node) {
	n.again = append(n.again, other.again...)
	if other.Pod == "" {
		n.again = append(n.again, other.asked)
	}
}

// Twice says of a node that several names led to which of them counts. It is empty if there was
// one, or if they are pods that replace each other.
func (n Node) Twice() string {
	if len(n.again) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is found by %s, which counts, and once more by %s", n.Name, n.asked, strings.Join(slices.Sorted(slices.Values(n.again)), ", "))
}
