// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/quota"
)

// Memory is a pod's share of what this process holds for apps and peers that do not
// read. Two things are counted, each against half of the same budget:
//
//   - held: the bytes that wait in the queues of streams, batches that wait for their
//     tunnel's socket, frames of which a part came (partial.go), and what apps said early
//     (early.go) until the peer answered and that is sent;
//   - lent: the bytes by which windows are larger than at first, for the peer may
//     send them at once. Of a pod's share of these each of its peers, by identity, has
//     a share in turn; another trust domain has one in all.
//
// Package quota says what a pod's share is, and that one beyond it takes nothing from
// others. If a pod wants more:
//
//   - batches and windows of its tunnels are small, from half of its share on;
//   - no window of its streams grows, and nothing is read early from its apps;
//   - a tunnel that holds much for slow apps of the pod gets no window again, so that
//     what else is for them waits in the peer;
//   - a stream of such a tunnel for which bytes come nevertheless is reset, with
//     ErrLimit, once the pod holds its share of a budget twice as large;
//   - any stream for which bytes are queued is, at its share of three times as much.
//
// Much is more than a little and what was lent: so a peer that has the pod hold all
// that it may does not stop or reset the streams of others.
//
// The nil Memory has no bounds.
type Memory struct {
	of         *budgetOfBytes
	held, lent *quota.Part

	mu    sync.Mutex                  // taken before those of package quota; guards what follows
	loans *quota.Resource             // what may be lent to the pod
	peers map[spiffeid.ID]*quota.Part // of loans, where something is lent
}

// process is the budget of this process.
var process = sync.OnceValue(func() *budgetOfBytes { return newBudgetOfBytes(limits().budget()) })

type budgetOfBytes struct{ held, lent *quota.Resource }

func newBudgetOfBytes(size int64) *budgetOfBytes {
	return &budgetOfBytes{held: quota.New(size/2, 0), lent: quota.New(size/2, 0)}
}

// NewMemory returns the share of one more pod.
func NewMemory() *Memory { return process().share() }

// MemoryHeld returns how many bytes this process may hold for apps and peers that do
// not read, and how many it holds.
func MemoryHeld() (size, used int64) {
	held := process().held
	return held.Size(), held.Used()
}

// memoryOr is m, or a share of its own.
func memoryOr(m *Memory) *Memory {
	if m == nil {
		return NewMemory()
	}
	return m
}

func (b *budgetOfBytes) share() *Memory {
	return &Memory{
		of: b, held: b.held.Part(), lent: b.lent.Part(),
		loans: quota.New(0, 0), peers: make(map[spiffeid.ID]*quota.Part),
	}
}

// hold counts n bytes that wait for an app or a peer, or, if it is negative, no longer
// wait.
func (m *Memory) hold(n int) {
	if m != nil {
		m.held.Add(int64(n))
	}
}

// halved reports that the pod holds more than half of its share.
func (m *Memory) halved() bool { return m != nil && 2*m.held.Held() > m.held.Share(0) }

// overdrawn reports that the pod holds more than its share.
func (m *Memory) overdrawn() bool { return m != nil && m.held.Over(0) }

// exhausted reports that the pod holds more than its share would be of twice the budget.
// A pod over its share gets no window, so only what its peers may send already still
// comes. Beyond this bound streams are reset.
func (m *Memory) exhausted() bool { return m != nil && m.held.Over(m.of.held.Size()) }

// flooded is exhausted for three times the budget. Very many tunnels that hold only a
// little each can come that far.
func (m *Memory) flooded() bool { return m != nil && m.held.Over(2*m.of.held.Size()) }

// lend reserves n bytes for a peer's window that grows, if the pod's share has them, and
// the peer's share of that.
func (m *Memory) lend(peer spiffeid.ID, n int) bool {
	if m == nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loans.Resize(m.lent.Share(0))
	loan := m.peers[peer]
	if loan == nil {
		loan = m.loans.Part()
	}
	if !loan.Take(int64(n)) {
		return false
	}
	if !m.lent.Take(int64(n)) {
		loan.Add(int64(-n))
		return false
	}
	m.peers[peer] = loan
	return true
}

// repay is the end of lend.
func (m *Memory) repay(peer spiffeid.ID, n int) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lent.Add(int64(-n))
	loan := m.peers[peer]
	if loan.Add(int64(-n)); loan.Held() == 0 {
		delete(m.peers, peer)
	}
}
