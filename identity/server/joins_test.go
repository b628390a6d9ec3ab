// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/join/jointest"
)

// hanging is a Store whose file system does not answer until mended is closed, and whose
// calls ignore their ctx, as system calls do.
type hanging struct {
	join.Store
	finds  bool // Find answers
	mended chan struct{}
}

func (h hanging) Find(ctx context.Context, id string) (join.Record, error) {
	if !h.finds {
		<-h.mended
	}
	return h.Store.Find(ctx, id)
}

func (h hanging) Redeem(ctx context.Context, id string, key join.Key) error {
	<-h.mended
	return h.Store.Redeem(ctx, id, key)
}

// Join tokens are of few; nodes must be served whatever happens to their store.
func TestAStoreThatHangsKeepsNoNodeWaiting(t *testing.T) {
	for name, finds := range map[string]bool{"find": false, "redeem": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, store := joining(t)
				h := hanging{store, finds, make(chan struct{})}
				r.cfg.Join = h
				text := joinToken(t, store, batchID).Text()
				const strangers = 200
				start := time.Now()
				errs := make(chan error, strangers)
				for range strangers {
					go func() {
						_, err := r.CreateCertificate(withToken(context.Background(), text), newProc().request(batchID))
						errs <- err
					}()
				}
				synctest.Wait()
				if n := len(r.inFlight); n > storeAtOnce {
					t.Errorf("%d requests wait for the store", n)
				}
				if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t)); err != nil {
					t.Errorf("a node: %v", err)
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("the node waited for %v", took)
				}
				told := 0
				for range strangers {
					err := <-errs
					wantReason(t, err, codes.Unavailable, identityv1.Reason_CA_NOT_READY)
					for _, detail := range status.Convert(err).Details() {
						if _, is := detail.(*errdetails.RetryInfo); is {
							told++
						}
					}
				}
				if told < strangers-storeAtOnce {
					t.Errorf("%d of %d were told when to come again", told, strangers)
				}
				if took := time.Since(start); took != storeWithin {
					t.Errorf("the last left after %v", took)
				}
				close(h.mended)
				synctest.Wait()
				token := joinToken(t, store, batchID).Text()
				if _, err := r.CreateCertificate(withToken(t.Context(), token), newProc().request(batchID)); err != nil {
					t.Errorf("once the store answers: %v", err)
				}
			})
		})
	}
}

// Whoever reaches the port can ask about tokens of any ID. That must cost the API server
// little, and keep no process from joining or renewing.
func TestStrangersTokensKeepNobodyFromTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		object := &jointest.Object{Takes: 50 * time.Millisecond}
		store := join.In(object)
		r := newRig(t, func(c *Config) { c.Join = store })
		old, process := joinToken(t, store, batchID), newProc()
		process.take(t, must(r.CreateCertificate(withToken(t.Context(), joinToken(t, store, batchID).Text()), process.request(batchID))))
		unknown := joinToken(t, join.In(&jointest.Object{}), batchID).Text()

		ctx, end := context.WithCancel(t.Context())
		var strangers sync.WaitGroup
		for range 4 * storeAtOnce {
			strangers.Go(func() {
				for ctx.Err() == nil {
					_, err := r.CreateCertificate(withToken(context.Background(), unknown), newProc().request(batchID))
					if reason := reasonOf(err); reason != identityv1.Reason_JOIN_TOKEN_UNKNOWN && reason != identityv1.Reason_CA_NOT_READY {
						t.Errorf("a stranger: %v", err)
					}
					time.Sleep(30 * time.Millisecond)
				}
			})
		}
		time.Sleep(3 * time.Second)
		before := object.Reads()
		time.Sleep(5 * time.Second)
		if n := object.Reads() - before; n > 6 {
			t.Errorf("strangers had the store read %d times in five seconds", n)
		}
		time.Sleep(333 * time.Millisecond)
		if _, err := r.CreateCertificate(withToken(t.Context(), old.Text()), newProc().request(batchID)); err != nil {
			t.Errorf("a process joins: %v", err)
		}
		for range 20 {
			if _, err := r.CreateCertificate(shown(t.Context(), process.chain...), newProc().request(batchID)); err != nil {
				t.Errorf("a process renews: %v", err)
			}
		}
		young, p, start := joinToken(t, store, batchID), newProc(), time.Now()
		for {
			_, err := r.CreateCertificate(withToken(t.Context(), young.Text()), p.request(batchID))
			if err == nil {
				break
			}
			if wantReason(t, err, codes.Unavailable, identityv1.Reason_CA_NOT_READY); time.Since(start) > 3*time.Second {
				t.Fatal("a token that was just made is not taken")
			}
			time.Sleep(busyFor)
		}
		end()
		strangers.Wait()
		time.Sleep(2 * time.Second)
	})
}

// watched is a Store that calls found each time that it has found a Record.
type watched struct {
	join.Store
	found func()
}

func (w watched) Find(ctx context.Context, id string) (join.Record, error) {
	record, err := w.Store.Find(ctx, id)
	w.found()
	return record, err
}

// A request may wait for its turn to be signed. What is decided meanwhile counts.
func TestWhatIsDeniedOrRevokedMeanwhileIsNotSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := join.Directory(t.TempDir())
		r := newRig(t, func(c *Config) { c.Join, c.Denied = store, deny.NewSet() })
		r.cfg.Denied.Replace(0, nil)
		meanwhile := func(ctx context.Context, request *identityv1.IstioCertificateRequest, do func()) error {
			r.signing = newGate(1)
			if err := r.signing.enter(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := r.CreateCertificate(ctx, request)
				ended <- err
			}()
			synctest.Wait()
			do()
			r.signing.leave()
			return <-ended
		}
		err := meanwhile(withToken(t.Context(), goodToken(t)), goodRequest(t), func() {
			r.cfg.Denied.Replace(0, []deny.Entry{{Kind: deny.KindNode, Value: "node-1"}})
		})
		wantReason(t, err, codes.PermissionDenied, identityv1.Reason_DENIED)

		token := joinToken(t, store, batchID)
		p := newProc()
		p.take(t, must(r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))))
		err = meanwhile(shown(t.Context(), p.chain...), newProc().request(batchID), func() {
			if err := store.Remove(t.Context(), token.ID); err != nil {
				t.Error(err)
			}
		})
		wantReason(t, err, codes.Unauthenticated, identityv1.Reason_PROCESS_REVOKED)

		// C.4: what proves the process is asked about again, not only what it asks for.
		token = joinToken(t, store, batchID)
		p = newProc()
		p.take(t, must(r.CreateCertificate(withToken(t.Context(), token.Text()), p.request(batchID))))
		spki := sha256.Sum256(p.chain[0].RawSubjectPublicKeyInfo)
		for _, entry := range []deny.Entry{
			{Kind: deny.KindSerial, Value: p.chain[0].SerialNumber.Text(16)},
			{Kind: deny.KindSPKI, Value: hex.EncodeToString(spki[:])},
		} {
			r.cfg.Denied.Replace(0, nil)
			err = meanwhile(shown(t.Context(), p.chain...), newProc().request(batchID), func() {
				r.cfg.Denied.Replace(0, []deny.Entry{entry})
			})
			wantReason(t, err, codes.PermissionDenied, identityv1.Reason_DENIED)
		}

		// The store of join tokens is asked last, and may take its time.
		r.cfg.Denied.Replace(0, nil)
		asked := 0
		r.cfg.Join = watched{store, func() {
			if asked++; asked == 2 { // at the beginning, and once all is signed
				r.cfg.Denied.Replace(0, []deny.Entry{{Kind: deny.KindSerial, Value: p.chain[0].SerialNumber.Text(16)}})
			}
		}}
		_, err = r.CreateCertificate(shown(t.Context(), p.chain...), newProc().request(batchID))
		if wantReason(t, err, codes.PermissionDenied, identityv1.Reason_DENIED); asked != 2 {
			t.Errorf("the store was asked %d times", asked)
		}
	})
}
