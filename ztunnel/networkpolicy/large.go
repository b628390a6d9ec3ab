// SPDX-License-Identifier: Apache-2.0

package networkpolicy

// largeSide is how many peers make one direction of a policy large. One object may have tens
// of thousands, and select pods of many Concerns: they share one index of it.
const largeSide = 256

func (s *Side) isLarge() bool {
	peers := 0
	for i := range s.Rules {
		peers += max(1, len(s.Rules[i].Peers))
	}
	return peers >= largeSide
}

// largeSides has the index of each large side that a Concern needs. Its owner has a lock.
type largeSides struct{ indexes map[*Side]*index }

func (l *largeSides) index(namespace string, s *Side) *index {
	x := l.indexes[s]
	if x == nil {
		if l.indexes == nil {
			l.indexes = map[*Side]*index{}
		}
		x = newIndex(namespace, s.Rules)
		l.indexes[s] = x
	}
	return x
}
