// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// hedgeAfter is how long one replica may think before the next is asked too. The
	// first answer counts; the CA can sign twice without harm.
	hedgeAfter = 250 * time.Millisecond
	// lookAgain is how soon addresses are asked for again that are not known yet.
	lookAgain = 20 * time.Millisecond
)

// attempt is one replica that was asked.
type attempt[T any] struct {
	of    *replica
	since time.Time
	value T
	err   error
	over  bool
}

// ask puts a question to one replica after the other: to the next at once if one
// fails, and beside it if one is silent. If all are, they are asked once more, in
// other connections. It returns the first answer, a refusal included; or, once all
// have failed, how the last did.
func ask[T any](ctx context.Context, c *Client, question func(context.Context, *replica) (T, error)) (T, error) {
	asking, end := context.WithCancel(ctx)
	defer end()
	var (
		none     T
		last     = status.Error(codes.Unavailable, "nobody was asked")
		tried    = map[seat]bool{}
		attempts []*attempt[T]
		underWay []*replica
		again    bool
		replies  = make(chan *attempt[T])
		next     = time.NewTimer(0)
	)
	defer next.Stop()
	defer func() {
		for _, a := range attempts { // end ends them
			if !a.over {
				c.replicas.abandon(a.of, a.since)
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return none, status.FromContextError(ctx.Err()).Err()
		case <-next.C:
			r, known, err := c.take(tried)
			switch {
			case r != nil && len(underWay) > 0 && !c.replicas.mayHedge(underWay):
				c.replicas.putBack(r, tried)
				next.Reset(hedgeAfter)
			case err != nil:
				last = err
			case !known:
				next.Reset(lookAgain)
				continue
			case r != nil:
				a := &attempt[T]{of: r, since: time.Now()}
				attempts, underWay = append(attempts, a), append(underWay, r)
				go func() {
					a.value, a.err = question(asking, r)
					select {
					case replies <- a:
					case <-asking.Done():
					}
				}()
				next.Reset(hedgeAfter)
			case !again && len(underWay) > 0:
				again = true
				clear(tried)
				for _, a := range attempts {
					if !a.over {
						c.replicas.silent(a.of, a.since)
					}
				}
				next.Reset(0)
			}
			if len(underWay) == 0 {
				return none, last
			}
		case a := <-replies:
			a.over = true
			underWay = slices.Delete(underWay, slices.Index(underWay, a.of), slices.Index(underWay, a.of)+1)
			able := decisive(ctx, a.err)
			c.replicas.give(a.of, able)
			if able {
				return a.value, a.err
			}
			last = a.err
			next.Reset(0)
		}
	}
}

// take returns the next replica to ask, nil if there is no other. It is not known yet
// while the name of the CA is being looked up.
func (c *Client) take(tried map[seat]bool) (r *replica, known bool, err error) {
	var addrs []string
	if c.cfg.Endpoints != nil {
		for _, addr := range c.cfg.Endpoints() {
			addrs = append(addrs, addr.String())
		}
	}
	if len(addrs) > 0 {
		if r, err = c.replicas.take(addrs, tried); r != nil || err != nil {
			return r, true, err
		}
	}
	named, err := c.names.addresses()
	if len(named) == 0 {
		if err != nil && addrs == nil {
			c.link.note(err)
			return nil, true, status.Error(codes.Unavailable, err.Error())
		}
		return nil, addrs != nil, nil
	}
	if r, err = c.replicas.take(append(addrs, named...), tried); r == nil {
		c.names.doubt()
	}
	return r, true, err
}

// decisive reports whether another replica would say the same.
func decisive(ctx context.Context, err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return false
	case codes.Canceled, codes.DeadlineExceeded: // by the connection's end, not by the caller's
		return ctx.Err() != nil
	}
	return true
}
