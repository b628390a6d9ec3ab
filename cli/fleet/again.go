// SPDX-License-Identifier: Apache-2.0

package fleet

import "fmt"

// withoutAgain leaves each node in once, so that nothing of it counts twice. Two pods of
// ztunnel that are on one node while one replaces the other lead to the same process: the
// second is left out. Otherwise it is a mistake of whoever named them, which is told; of
// files the youngest counts.
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
		case n.Pod != "":
		case n.File && n.Taken.After(once[i].Taken):
			former := once[i]
			once[i] = n
			once = append(once, former.leftOut(n))
		default:
			once = append(once, n.leftOut(once[i]))
		}
	}
	return once
}

// leftOut is what is said of a node in the place of what it says.
func (n Node) leftOut(counted Node) Node {
	left := Node{Target: n.Target, File: n.File}
	left.Name = n.asked
	left.Problem = fmt.Sprintf("it is %s once more, as %s is: only that one counts", counted.Name, counted.asked)
	return left
}
