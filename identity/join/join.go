// SPDX-License-Identifier: Apache-2.0

// Package join gives an identity to one process outside Kubernetes, which nobody can
// vouch for but an operator. The operator makes a token for exactly one identity; the
// process redeems it once, by a key of its own, and from then on renews by its
// certificate. What is kept of it is a Record: as long as it is there, the process may
// renew; to revoke is to remove it.
//
//	token.go      what the operator hands over
//	record.go     what is kept, and who may redeem
//	directory.go  the Store of one CA, or of several that share a file system
//	object.go     the Store of replicas that share a Secret
//	recent.go     what it answers strangers
package join

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Bounds of the time in which a token can be redeemed.
const (
	MinTTL = time.Minute
	MaxTTL = 24 * time.Hour
)

// maxRecords bounds what a Store holds. An Object is bounded in bytes, too.
const maxRecords = 2048

var (
	// ErrUnknown is wrapped if there is no such Record, or not any more.
	ErrUnknown = errors.New("there is no such join token")
	// ErrExpired is wrapped if nobody redeemed the token in time.
	ErrExpired = errors.New("the join token has expired")
	// ErrRedeemed is wrapped if another key has redeemed the token.
	ErrRedeemed = errors.New("the join token was redeemed by another key")
	// ErrWrong is wrapped if the secret is not the token's.
	ErrWrong = errors.New("the secret of the join token is wrong")
)

// Store is where Records are. Its String says where that is. Any error that wraps none
// of this package's says that the Store cannot tell now.
type Store interface {
	// Add keeps a new Record, if there is room for it and its redemption.
	Add(ctx context.Context, r Record) error
	// Find returns the Record of an ID, or wraps ErrUnknown.
	Find(ctx context.Context, id string) (Record, error)
	// Redeem writes down which key redeems the token, if none did before: of two keys
	// that come at once, one wins. The winner may redeem again, since it may not have
	// got the answer. Others get ErrRedeemed.
	Redeem(ctx context.Context, id string, key Key) error
	// List returns all Records, in the order of their IDs. Beside an error it returns
	// those that it could read.
	List(ctx context.Context) ([]Record, error)
	// Remove forgets a Record: its token is worth nothing, and its process cannot
	// renew. It wraps ErrUnknown if there is none.
	Remove(ctx context.Context, id string) error
	fmt.Stringer
}

// Create makes a token for an identity and keeps its Record.
func Create(ctx context.Context, store Store, o Options) (Token, Record, error) {
	token, record, err := o.issue(time.Now())
	if err != nil {
		return Token{}, Record{}, err
	}
	if err := prune(ctx, store); err != nil {
		return Token{}, Record{}, err
	}
	if err := store.Add(ctx, record); err != nil {
		return Token{}, Record{}, fmt.Errorf("keep the join token in %v: %w", store, err)
	}
	return token, record, nil
}

// pruneAfter is how long a token must have expired: a replica whose clock is behind may
// have it redeemed until then.
const pruneAfter = time.Hour

// prune removes what expired without being redeemed, and refuses more than there is
// room for. A Record that cannot be read keeps nobody from joining; if none can, Add
// says so.
func prune(ctx context.Context, store Store) error {
	records, _ := store.List(ctx)
	kept := len(records)
	for _, r := range records {
		prunable := func(r Record) bool { return !r.Redeemed && r.expired(time.Now().Add(-pruneAfter)) }
		if !prunable(r) {
			continue
		}
		if now, err := store.Find(ctx, r.ID); err == nil && !prunable(now) { // redeemed since it was listed
			continue
		}
		if err := store.Remove(ctx, r.ID); err != nil && !errors.Is(err, ErrUnknown) {
			return fmt.Errorf("remove the expired join token %s from %v: %w", r.ID, store, err)
		}
		kept--
	}
	if kept >= maxRecords {
		return fmt.Errorf("%v holds %d join tokens and processes, the limit is %d: revoke those that are gone", store, kept, maxRecords)
	}
	return nil
}
