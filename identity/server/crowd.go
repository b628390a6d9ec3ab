// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"container/heap"
	linked "container/list"
)

// crowd counts the open connections of one sort by who holds them, and knows which to
// give up for one more. Each operation costs O(log n) of the holders.
type crowd struct {
	byName map[string]*holder
	byMost ranking
	total  int
	seen   uint64 // connections so far
}

// holder is an address or a node that has at least one connection.
type holder struct {
	name string
	open linked.List // of *seat, the oldest first
	rank int         // in byMost
}

// seat is that of one connection in a crowd.
type seat struct {
	visitor *visitor
	holder  *holder
	nth     uint64 // of all that came
	element *linked.Element
}

func newCrowd() crowd { return crowd{byName: map[string]*holder{}} }

// enter gives the visitor a seat, the youngest of its holder.
func (c *crowd) enter(v *visitor, name string) {
	h := c.byName[name]
	if h == nil {
		h = &holder{name: name}
		c.byName[name] = h
	}
	c.seen++
	c.total++
	v.seat = &seat{visitor: v, holder: h, nth: c.seen}
	v.seat.element = h.open.PushBack(v.seat)
	if h.open.Len() == 1 {
		heap.Push(&c.byMost, h)
	} else {
		heap.Fix(&c.byMost, h.rank)
	}
}

// leave takes the visitor's seat back, if it has one.
func (c *crowd) leave(v *visitor) {
	p := v.seat
	if p == nil {
		return
	}
	v.seat = nil
	c.total--
	h := p.holder
	h.open.Remove(p.element)
	if h.open.Len() > 0 {
		heap.Fix(&c.byMost, h.rank)
		return
	}
	heap.Remove(&c.byMost, h.rank)
	delete(c.byName, h.name)
}

// greediest returns the oldest connection of the holder that has most; of several such
// holders, that of which it is older. The crowd must not be empty.
func (c *crowd) greediest() *visitor { return c.byMost[0].oldest().visitor }

func (h *holder) oldest() *seat { return h.open.Front().Value.(*seat) }

// ranking is a heap of holders, with the one that has most first.
type ranking []*holder

func (r ranking) Len() int { return len(r) }

func (r ranking) Less(i, j int) bool {
	if most := cmp.Compare(r[i].open.Len(), r[j].open.Len()); most != 0 {
		return most > 0
	}
	return r[i].oldest().nth < r[j].oldest().nth
}

func (r ranking) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].rank, r[j].rank = i, j
}

// Push is for package heap.
func (r *ranking) Push(h any) {
	h.(*holder).rank = len(*r)
	*r = append(*r, h.(*holder))
}

// Pop is for package heap.
func (r *ranking) Pop() any {
	last := (*r)[len(*r)-1]
	(*r)[len(*r)-1] = nil
	*r = (*r)[:len(*r)-1]
	return last
}
