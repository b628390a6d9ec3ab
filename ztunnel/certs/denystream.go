// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

const (
	// maxDenyBackoff bounds the window in which a stream is opened again: a CA that comes
	// back may have something to say that must be heard in seconds.
	maxDenyBackoff = 2 * time.Second
	// noDenySetFor is how long a CA is not asked again that has no deny set.
	noDenySetFor = 30 * time.Second
)

// denier is what an Issuer may be besides: one that says whom the CA denies.
type denier interface {
	// FollowDeny hands take each set that comes, and tells the CA that it is enforced when
	// take has returned. It returns when the stream ends, and says why; errNoDenySet if the
	// CA has no deny set. known is the generation of what the node goes by so far.
	FollowDeny(ctx context.Context, known uint64, take func(DenySet)) error
}

// followDenials keeps one of the streams of the deny set open until ctx ends.
func (s *Store) followDenials(ctx context.Context, ca denier, stream int) {
	window := followBackoff
	for ctx.Err() == nil {
		heard := false
		known, _, _ := s.denials.set.Entries()
		err := ca.FollowDeny(ctx, known, func(d DenySet) {
			heard = true
			s.takeDenySet(stream, d)
		})
		if ctx.Err() != nil {
			return
		}
		s.loseDenials(stream, err, heard)
		if heard {
			window = followBackoff
		}
		pause := rand.N(window)
		if errors.Is(err, errNoDenySet) {
			pause = noDenySetFor/2 + rand.N(noDenySetFor)
		}
		window = min(2*window, maxDenyBackoff)
		wait(ctx, pause, nil)
	}
}

// loseDenials notes that a stream has ended. What is in force stays.
func (s *Store) loseDenials(stream int, err error, heard bool) {
	s.mu.Lock()
	d := &s.denials
	if d.open[stream] {
		d.open[stream], d.heard = false, time.Now()
	}
	said := !heard && !d.hears() && d.problem != err.Error()
	if !d.hears() {
		d.problem, d.none = err.Error(), errors.Is(err, errNoDenySet)
	}
	s.mu.Unlock()
	if said && !errors.Is(err, errNoDenySet) {
		s.cfg.Log.Warn("there is no stream of the CA's deny set", logError, err)
	}
}

// FollowDeny is a denier's. Streams of one Client lead to different replicas, as far as
// there are several.
func (c *Client) FollowDeny(ctx context.Context, known uint64, take func(DenySet)) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ctx, err := c.authorize(ctx)
	if err != nil {
		return err
	}
	r, err := c.another(ctx)
	if err != nil {
		return c.problem(err)
	}
	defer c.denying.leave(r.seat)
	late := time.AfterFunc(firstBundle, func() { end(errNoneCame) })
	defer late.Stop()
	err = r.streamDeny(ctx, known, func(d DenySet) {
		late.Stop()
		take(d)
	})
	if errors.Is(context.Cause(ctx), errNoneCame) {
		err = status.Error(codes.Unavailable, errNoneCame.Error())
	}
	c.replicas.give(r, decisive(ctx, err))
	if status.Code(err) == codes.Unimplemented {
		return errNoDenySet
	}
	return c.problem(err)
}

var (
	// errNoDenySet says that the CA has none, as istiod.
	errNoDenySet = errors.New("the CA has no deny set")
	errNoneCame  = fmt.Errorf("no deny set came within %v", firstBundle)
)

// seats are those that streams of the deny set are at.
type seats struct {
	mu sync.Mutex // guards of
	of map[seat]int
}

// another waits for a replica, if possible for one at which no other stream of the deny set
// is. It is to be given back, and its seat left.
func (c *Client) another(ctx context.Context) (*replica, error) {
	for {
		r, known, err := c.sit()
		switch {
		case err != nil:
			return nil, err
		case r != nil:
			return r, nil
		case known:
			return nil, status.Error(codes.Unavailable, "there is nobody to ask")
		}
		wait(ctx, lookAgain, nil)
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// sit chooses for one stream at a time.
func (c *Client) sit() (r *replica, known bool, err error) {
	c.denying.mu.Lock()
	defer c.denying.mu.Unlock()
	taken := map[seat]bool{}
	for s := range c.denying.of {
		taken[s] = true
	}
	if r, known, err = c.take(taken); r == nil && known && err == nil {
		r, known, err = c.take(map[seat]bool{})
	}
	if r != nil {
		c.denying.of[r.seat]++
	}
	return r, known, err
}

func (st *seats) leave(s seat) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.of[s]--; st.of[s] == 0 {
		delete(st.of, s)
	}
}

// streamDeny acknowledges each set once take has returned.
func (r *replica) streamDeny(ctx context.Context, known uint64, take func(DenySet)) error {
	stream, err := r.signer.StreamDeny(ctx)
	if err != nil {
		return err
	}
	for generation := known; ; {
		if stream.Send(&identityv1.DenyAck{Generation: generation}) != nil {
			return recvError(stream)
		}
		next, err := receiveDeny(stream.Recv)
		if err != nil {
			return err
		}
		take(next)
		generation = next.Generation
	}
}

// receiveDeny puts the parts of one set together.
func receiveDeny(recv func() (*identityv1.DenySet, error)) (set DenySet, err error) {
	for {
		part, err := recv()
		switch {
		case err != nil:
			return DenySet{}, err
		case part.GetGeneration() == 0 || set.Generation != 0 && part.GetGeneration() != set.Generation:
			return DenySet{}, status.Errorf(codes.DataLoss, "deny set of generation %d: a part is of generation %d", set.Generation, part.GetGeneration())
		case len(set.Entries)+len(part.GetEntries()) > deny.MaxEntries:
			return DenySet{}, status.Errorf(codes.DataLoss, "deny set of generation %d: more than %d entries", part.GetGeneration(), deny.MaxEntries)
		}
		set.Generation = part.GetGeneration()
		for _, e := range part.GetEntries() {
			entry, err := denyEntryOf(e)
			if err != nil { // of a newer CA: the others count
				set.Unread = err.Error()
				continue
			}
			set.Entries = append(set.Entries, entry)
		}
		if !part.GetMore() {
			return set, nil
		}
	}
}

func denyEntryOf(e *identityv1.DenyEntry) (deny.Entry, error) {
	var until time.Time
	if e.GetUntil() != nil {
		if err := e.GetUntil().CheckValid(); err != nil {
			return deny.Entry{}, fmt.Errorf("until: %v", err)
		}
		until = e.GetUntil().AsTime()
	}
	switch what := e.GetWhat().(type) {
	case *identityv1.DenyEntry_Id:
		return deny.New(deny.KindID, what.Id, until, e.GetReason())
	case *identityv1.DenyEntry_Node:
		return deny.New(deny.KindNode, what.Node, until, e.GetReason())
	case *identityv1.DenyEntry_Serial:
		return deny.New(deny.KindSerial, hex.EncodeToString(what.Serial), until, e.GetReason())
	case *identityv1.DenyEntry_Spki:
		return deny.New(deny.KindSPKI, hex.EncodeToString(what.Spki), until, e.GetReason())
	case *identityv1.DenyEntry_Issuer:
		return deny.New(deny.KindIssuer, hex.EncodeToString(what.Issuer), until, e.GetReason())
	}
	return deny.Entry{}, errors.New("an entry is of a kind that is not known")
}
