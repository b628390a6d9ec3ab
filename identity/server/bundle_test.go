// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/test/env"
)

func dialSigner(t *testing.T, r *rig, addr string) identityv1.CertificateServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(trusting(r))), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return identityv1.NewCertificateServiceClient(conn)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A001-6: the bundle comes by a stream, whether certificates are renewed or not.
func TestANodeIsSentTheBundleAndItsAckIsKept(t *testing.T) {
	r := newRig(t, nil)
	addr, stop := serve(t, r)
	stream, err := dialSigner(t, r, addr).StreamBundle(outgoing(t, goodToken(t)))
	if err != nil {
		t.Fatal(err)
	}
	// What it goes by so far may be of another replica, and younger.
	if err := stream.Send(&identityv1.BundleAck{Generation: 1 << 60}); err != nil {
		t.Fatal(err)
	}
	bundle, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	generation, roots := r.cfg.CA.Bundle()
	hash := identity.BundleHash(roots)
	if bundle.GetGeneration() != generation || string(bundle.GetSha256()) != string(hash[:]) || len(bundle.GetRoots()) != 1 ||
		string(bundle.GetRoots()[0]) != string(roots[0].Raw) {
		t.Errorf("the bundle is %v", bundle)
	}
	eventually(t, "it is known what the node goes by", func() bool { return r.Acks()["node-1"].Generation == 1<<60 })
	if err := stream.Send(&identityv1.BundleAck{Generation: generation, Sha256: bundle.GetSha256()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ack is kept", func() bool {
		a := r.Acks()["node-1"]
		return a.Generation == generation && a.SHA256 == hex.EncodeToString(hash[:]) && a.Connected && time.Since(a.Time) < time.Minute
	})
	scrape := httptest.NewRecorder()
	r.Handler().ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`culvert_identity_nodes{bundle="current"} 1`, `culvert_identity_nodes{bundle="behind"} 0`} {
		if !strings.Contains(scrape.Body.String(), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if nodes := r.dump().Nodes; len(nodes) != 1 || nodes[0].Bundle == nil || nodes[0].Bundle.Generation != generation {
		t.Errorf("the dump shows %+v", nodes)
	}
	// A replica that stops ends its streams at once: they would keep it for the grace.
	watch := env.NewStopwatch()
	stop()
	if took := watch.Elapsed(); took >= grace {
		t.Errorf("the server took %v to stop", took)
	}
	if _, err := stream.Recv(); err != nil {
		wantStatus(t, err, codes.Unavailable, "stops")
	} else {
		t.Error("the stream goes on")
	}
	eventually(t, "the node is not connected", func() bool { return !r.Acks()["node-1"].Connected })
}

func TestAStrangerIsSentNothing(t *testing.T) {
	r := newRig(t, nil)
	addr, _ := serve(t, r)
	for token, want := range map[string]codes.Code{"x": codes.Unauthenticated, "": codes.Unauthenticated} {
		stream, err := dialSigner(t, r, addr).StreamBundle(outgoing(t, token))
		if err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		wantStatus(t, err, want, "authorization")
		if got != nil {
			t.Errorf("it was sent %v", got)
		}
	}
	if acks := r.Acks(); len(acks) != 0 {
		t.Errorf("acks of %v", acks)
	}
}

// pipe is a stream in process.
type pipe struct {
	grpc.ServerStream
	ctx  context.Context
	up   chan *identityv1.BundleAck
	down chan *identityv1.Bundle
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Send(b *identityv1.Bundle) error { p.down <- b; return nil }

func (p *pipe) Recv() (*identityv1.BundleAck, error) {
	select {
	case ack, open := <-p.up:
		if !open {
			return nil, io.EOF
		}
		return ack, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// fickle is an Attestor that a test can turn.
type fickle struct {
	mu   sync.Mutex
	node string // node-1
	err  error
}

func (f *fickle) Attest(context.Context, string) (Caller, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return Caller{}, f.err
	}
	return Caller{ServiceAccount: ztunnel, Node: cmp.Or(f.node, "node-1")}, nil
}

func (f *fickle) turn(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// stream opens a stream in process; its end is sent to the channel.
func stream(t *testing.T, r *rig) (*pipe, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(withToken(context.Background(), "any"))
	t.Cleanup(cancel)
	p := &pipe{ctx: ctx, up: make(chan *identityv1.BundleAck), down: make(chan *identityv1.Bundle, 10)}
	ended := make(chan error, 1)
	go func() { ended <- r.StreamBundle(p); cancel() }()
	synctest.Wait()
	return p, ended
}

// A node that was deleted, or whose token ran out, must not be told for ever.
func TestAStreamEndsWithTheProofOfItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := &fickle{}
		r := newRig(t, func(c *Config) { c.Attestor = who })
		p, ended := stream(t, r)
		time.Sleep(time.Hour)
		who.turn(unavailable(identityv1.Reason_API_UNAVAILABLE, "the API server is away"))
		time.Sleep(proofStale - 2*proveAgain)
		p.up <- &identityv1.BundleAck{}
		synctest.Wait()
		if acks := r.Acks(); len(acks) != 1 || !acks["node-1"].Connected {
			t.Errorf("acks of %v", acks)
		}
		select {
		case err := <-ended:
			t.Fatalf("it ended while the node is what it was: %v", err)
		default:
		}
		who.turn(refused(identityv1.Reason_TOKEN_POD_GONE, "the token's pod is gone"))
		time.Sleep(2 * proveAgain)
		synctest.Wait()
		select {
		case err := <-ended:
			wantStatus(t, err, codes.Unauthenticated, "the token's pod is gone")
		default:
			t.Error("it goes on")
		}
	})
}

// A node that nobody can vouch for is told for an hour, and another node not at all.
func TestAStreamIsOfTheNodeThatOpenedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := &fickle{}
		r := newRig(t, func(c *Config) { c.Attestor = who })
		_, ended := stream(t, r)
		who.turn(unavailable(identityv1.Reason_API_UNAVAILABLE, "the API server is away"))
		time.Sleep(proofStale + 2*proveAgain)
		wantStatus(t, <-ended, codes.Unavailable, "the API server is away")

		who.turn(nil)
		_, ended = stream(t, r)
		who.mu.Lock()
		who.node = "node-2"
		who.mu.Unlock()
		time.Sleep(2 * proveAgain)
		wantStatus(t, <-ended, codes.Unauthenticated, "node-2")
	})
}

func TestANodeHasTwoStreamsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Attestor = &fickle{} })
		_, first := stream(t, r)
		second, secondEnded := stream(t, r)
		third, thirdEnded := stream(t, r)
		select {
		case err := <-first:
			wantStatus(t, err, codes.Aborted, "another stream")
		default:
			t.Error("the oldest goes on")
		}
		close(second.up)
		close(third.up)
		synctest.Wait()
		for _, ended := range []<-chan error{secondEnded, thirdEnded} {
			if err := <-ended; err != nil {
				t.Errorf("the node left, and %v", err)
			}
		}
	})
}

func TestAnAckIsAboutWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Attestor = &fickle{} })
		p, ended := stream(t, r)
		generation := (<-p.down).GetGeneration()
		p.up <- &identityv1.BundleAck{}
		p.up <- &identityv1.BundleAck{Generation: generation}
		p.up <- &identityv1.BundleAck{Generation: generation + 1}
		wantStatus(t, <-ended, codes.InvalidArgument, "was not sent")

		p, ended = stream(t, r)
		for range int(ackRate.Burst) + 1 {
			p.up <- &identityv1.BundleAck{Generation: generation}
		}
		wantStatus(t, <-ended, codes.ResourceExhausted, "acknowledges more")

		p, ended = stream(t, r)
		p.up <- &identityv1.BundleAck{Sha256: []byte("x")}
		wantStatus(t, <-ended, codes.InvalidArgument, "sha256")
	})
}

func TestTheBundleComesWhenTheCAOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := must(ca.New(ca.Options{TrustDomain: td}))
		r := newRig(t, func(c *Config) { c.CA, c.Attestor = closed, &fickle{} })
		p, _ := stream(t, r)
		select {
		case b := <-p.down:
			t.Fatalf("sent %v", b)
		default:
		}
		dir := t.TempDir()
		must(ca.Open(dir, ca.Options{TrustDomain: td}))
		files := ca.Files{}
		for _, entry := range must(os.ReadDir(dir)) {
			files[entry.Name()] = must(os.ReadFile(filepath.Join(dir, entry.Name())))
		}
		must(closed.Take(files))
		if b := <-p.down; len(b.GetRoots()) != 1 || b.GetGeneration() == 0 {
			t.Errorf("sent %v", b)
		}
	})
}

func TestAcksOfNodesThatWentAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Attestor = &fickle{} })
		p, ended := stream(t, r)
		p.up <- &identityv1.BundleAck{}
		close(p.up)
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		time.Sleep(forgetAcks - time.Minute)
		if len(r.Acks()) != 1 {
			t.Error("forgotten within the hour")
		}
		time.Sleep(2 * time.Minute)
		if len(r.Acks()) != 0 {
			t.Error("remembered for longer")
		}
	})
}
