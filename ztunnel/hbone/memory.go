// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Memory is a pod's share of what this process holds for apps that do not read. Two
// things are counted, each against half of the same budget:
//
//   - held: the bytes that wait in the queues of streams;
//   - lent: the bytes by which windows are larger than at first, for the peer may
//     send them at once.
//
// A pod gets more as long as it has no more than generous times what is left for all,
// so that a pod that comes later always gets some. If a pod wants more:
//
//   - no window of its streams grows;
//   - a tunnel that holds much for slow apps of the pod gets no window again, so that
//     what else is for them waits in the peer;
//   - a stream of such a tunnel for which bytes come nevertheless is reset, with
//     ErrLimit, once the whole budget is used.
//
// Much is more than a little and what was lent: so a peer that has the pod hold all
// that it may does not stop or reset the streams of others.
//
// The nil Memory has no bounds.
type Memory struct{ held, lent credit }

const (
	generous         = 4         // how often a pod may have what is left
	memoryDefault    = 256 << 20 // the budget of a process without GOMEMLIMIT
	memoryLimitShare = 4         // else one in so many bytes of that
)

// ledger is bytes that pods share.
type ledger struct {
	size int64
	used atomic.Int64
}

// credit is what a pod has of a ledger.
type credit struct {
	of   *ledger
	used atomic.Int64
}

// process is the budget of this process.
var process = sync.OnceValue(func() *budgetOfBytes {
	return newBudgetOfBytes(memorySize(debug.SetMemoryLimit(-1)))
})

type budgetOfBytes struct{ held, lent ledger }

func newBudgetOfBytes(size int64) *budgetOfBytes {
	return &budgetOfBytes{held: ledger{size: size / 2}, lent: ledger{size: size / 2}}
}

// memorySize is the budget of a process with that GOMEMLIMIT.
func memorySize(limit int64) int64 {
	if limit == math.MaxInt64 {
		return memoryDefault
	}
	return limit / memoryLimitShare
}

// NewMemory returns the share of one more pod.
func NewMemory() *Memory { return process().share() }

// MemoryHeld returns how many bytes this process may hold for apps that do not read,
// and how many it holds.
func MemoryHeld() (size, used int64) {
	held := &process().held
	return held.size, held.used.Load()
}

// memoryOr is m, or a share of its own.
func memoryOr(m *Memory) *Memory {
	if m == nil {
		return NewMemory()
	}
	return m
}

func (b *budgetOfBytes) share() *Memory {
	return &Memory{held: credit{of: &b.held}, lent: credit{of: &b.lent}}
}

// hold counts n bytes that wait for apps, or, if it is negative, no longer wait.
func (m *Memory) hold(n int) {
	if m != nil {
		m.held.add(int64(n))
	}
}

// tight reports that half of what may be held is.
func (m *Memory) tight() bool {
	return m != nil && m.held.of.used.Load() > m.held.of.size/2
}

// overdrawn reports that the pod holds more than its share.
func (m *Memory) overdrawn() bool { return m != nil && !m.held.fits(0) }

// exhausted reports that the pod holds more than its share would be of twice the budget.
// A pod over its share gets no window, so only what its peers may send already still
// comes. Beyond this bound streams are reset.
func (m *Memory) exhausted() bool {
	return m != nil && !m.held.fits(m.held.of.size)
}

// flooded is exhausted for three times the budget. Very many tunnels that hold only a
// little each can come that far.
func (m *Memory) flooded() bool { return m != nil && !m.held.fits(2*m.held.of.size) }

// lend reserves n bytes for a window that grows, if the pod's share has them.
func (m *Memory) lend(n int) bool {
	if m == nil {
		return true
	}
	m.lent.add(int64(n))
	if m.lent.fits(0) {
		return true
	}
	m.lent.add(int64(-n))
	return false
}

// repay is the end of lend.
func (m *Memory) repay(n int) {
	if m != nil {
		m.lent.add(int64(-n))
	}
}

func (a *credit) add(n int64) {
	a.of.used.Add(n)
	a.used.Add(n)
}

// fits reports whether the pod has no more than its share of a ledger that is
// larger by extra bytes.
func (a *credit) fits(extra int64) bool {
	return generous*(a.of.size+extra-a.of.used.Load()) >= a.used.Load()
}
