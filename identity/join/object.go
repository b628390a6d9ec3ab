// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// ErrChanged is wrapped by Object.Replace if the object is not what was read.
var ErrChanged = errors.New("another hand has changed it meanwhile")

// Object is something that is read and replaced whole, as a Secret of Kubernetes. Its String
// says where it is. Who may write it may have any identity.
type Object interface {
	// Read returns its data, and their version; neither if it is not there.
	Read(ctx context.Context) (data map[string][]byte, version string, err error)
	// Replace stores data if the object is of that version still, or, without a version,
	// if there is none. Else it changes nothing and wraps ErrChanged.
	Replace(ctx context.Context, data map[string][]byte, version string) error
	fmt.Stringer
}

// In is the Store in an Object, which replicas of the CA and operators share: the version
// decides which of two redemptions wins. Keys are named as the files of a Directory; other
// keys are left alone. The Store is a Recent.
func In(o Object) Store { return &inObject{Object: o} }

type inObject struct {
	Object
	recent recent
}

// changePause is how long a change that another hand was before waits at most.
const changePause = 20 * time.Millisecond

const (
	// maxData is what an Object may hold with a new token: a Secret holds 1 MiB, and other
	// hands need room, too.
	maxData = 1<<20 - 16<<10
	// redemptionRoom is kept free for each token that may still be redeemed.
	redemptionRoom = 160
)

// size is how many bytes data will take once each token in it is redeemed.
func size(data map[string][]byte) int {
	total := 0
	for name, value := range data {
		total += len(name) + len(value)
		id, isRecord := strings.CutSuffix(name, recordFile)
		if _, redeemed := data[id+redeemedFile]; isRecord && !redeemed && checkID(id) == nil {
			total += redemptionRoom
		}
	}
	return total
}

// change replaces the data by what next makes of them, until nobody comes between.
func (o *inObject) change(ctx context.Context, next func(data map[string][]byte) error) error {
	for ctx.Err() == nil {
		data, version, err := o.Read(ctx)
		if err != nil {
			return err
		}
		after := maps.Clone(data)
		if after == nil {
			after = map[string][]byte{}
		}
		if err := next(after); err != nil {
			return err
		}
		if err := o.Replace(ctx, after, version); !errors.Is(err, ErrChanged) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(changePause)):
		}
	}
	return context.Cause(ctx)
}

// Add is part of Store.
func (o *inObject) Add(ctx context.Context, r Record) error {
	text, err := r.encode()
	if err != nil {
		return err
	}
	return o.change(ctx, func(data map[string][]byte) error {
		if _, there := data[r.ID+recordFile]; there {
			return fmt.Errorf("there is a join token %s already", r.ID)
		}
		data[r.ID+recordFile] = text
		if n := size(data); n > maxData {
			return fmt.Errorf("with it and all redemptions there would be %d bytes, the limit is %d: a Secret holds 1 MiB; revoke processes that are gone", n, maxData)
		}
		return nil
	})
}

// Find is part of Store.
func (o *inObject) Find(ctx context.Context, id string) (Record, error) {
	if err := checkID(id); err != nil {
		return Record{}, ErrUnknown
	}
	data, _, err := o.Read(ctx)
	if err != nil {
		return Record{}, err
	}
	return o.find(data, id)
}

func (o *inObject) find(data map[string][]byte, id string) (Record, error) {
	text, there := data[id+recordFile]
	if checkID(id) != nil || !there {
		return Record{}, ErrUnknown
	}
	r, err := decode(id, text)
	if redemption, redeemed := data[id+redeemedFile]; err == nil && redeemed {
		r, err = decodeRedemption(r, redemption)
	}
	if err != nil {
		return Record{}, fmt.Errorf("%v: %w", o, err)
	}
	return r, nil
}

// errSame ends a change that there is nothing to.
var errSame = errors.New("nothing changes")

// Redeem is part of Store.
func (o *inObject) Redeem(ctx context.Context, id string, key Key) error {
	err := o.change(ctx, func(data map[string][]byte) error {
		found, err := o.find(data, id)
		if err != nil {
			return err
		}
		r, err := found.redeem(key, time.Now())
		if err == nil && found.Redeemed {
			err = errSame
		}
		if err == nil {
			data[id+redeemedFile], err = r.encodeRedemption()
		}
		return err
	})
	if errors.Is(err, errSame) {
		return nil
	}
	return err
}

// List is part of Store.
func (o *inObject) List(ctx context.Context) ([]Record, error) {
	data, _, err := o.Read(ctx)
	if err != nil {
		return nil, err
	}
	var all []Record
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(data)) {
		id, is := strings.CutSuffix(name, recordFile)
		if !is || checkID(id) != nil {
			continue
		}
		r, err := o.find(data, id)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		all = append(all, r)
	}
	return all, errors.Join(problems...)
}

// Remove is part of Store.
func (o *inObject) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return ErrUnknown
	}
	return o.change(ctx, func(data map[string][]byte) error {
		if _, there := data[id+recordFile]; !there {
			return ErrUnknown
		}
		delete(data, id+recordFile)
		delete(data, id+redeemedFile)
		return nil
	})
}
