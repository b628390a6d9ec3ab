// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/identity/join"
)

const (
	// storeAtOnce bounds the calls of the join.Store that have not returned: those of
	// strangers, who can ask about tokens without end, and apart from them those of processes
	// that have proved themselves. Its file system may hang.
	storeAtOnce = 8
	// storeWithin is how long a request waits for the join.Store.
	storeWithin = 2 * time.Second
)

var errStoreBusy = fmt.Errorf("%w: %d questions to the store of join tokens have no answer yet; try again", ErrUnavailable, storeAtOnce)

// findToken is the Record of a token whose bearer may be a stranger. A token that was read a
// moment ago needs no place: strangers cannot keep it from being redeemed.
func (s *Server) findToken(ctx context.Context, id string) (join.Record, error) {
	find := s.cfg.Join.Find
	if recent, is := s.cfg.Join.(join.Recent); is {
		if record, known := recent.Known(id); known {
			return record, nil
		}
		find = recent.FindSoon
	}
	return inPlace(ctx, s.tokenPlaces, func(ctx context.Context) (join.Record, error) { return find(ctx, id) })
}

// findRecord is Find of the join.Store, as it is now, for a process that has proved itself.
func (s *Server) findRecord(ctx context.Context, id string) (join.Record, error) {
	return inPlace(ctx, s.storePlaces, func(ctx context.Context) (join.Record, error) { return s.cfg.Join.Find(ctx, id) })
}

// redeemRecord is Redeem of the join.Store. If it is given up, the token may be redeemed
// nevertheless: the same key may come again.
func (s *Server) redeemRecord(ctx context.Context, id string, key join.Key) error {
	_, err := inPlace(ctx, s.storePlaces, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.cfg.Join.Redeem(ctx, id, key)
	})
	return err
}

// inPlace runs a call that may hang, if one of the places is free. The call keeps its place
// until it returns; its caller leaves with ctx, or after storeWithin.
func inPlace[T any](ctx context.Context, places chan struct{}, call func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	select {
	case places <- struct{}{}:
	default:
		return none, errStoreBusy
	}
	ctx, cancel := context.WithTimeoutCause(ctx, storeWithin, errors.New("no answer within "+storeWithin.String()))
	defer cancel()
	answered := make(chan answer, 1)
	go func() {
		value, err := call(ctx)
		<-places
		answered <- answer{value, err}
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}
