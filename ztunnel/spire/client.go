// SPDX-License-Identifier: Apache-2.0

// Package spire takes the node's X509-SVIDs from SPIRE: its agent makes keys and leaves,
// and replaces them when it likes. ztunnel proves itself by the Workload API, as any
// process of the node, and asks for its pods' identities by the Delegated Identity API.
//
//	Check        who am I, by the Workload API? May I have the pods' identities?
//	Follow       the trust bundle, whenever it changes (bundles.go)
//	Issue        the SVID of one identity, from a stream that stays open (subscription.go)
//	Stream       which identities the agent has replaced since
package spire

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/spire/delegatedv1"
)

// maxMessage bounds an answer of the agent: SVIDs of one identity, or the bundles of all
// trust domains that it knows.
const maxMessage = 4 << 20

// Config says where SPIRE's agent is, and whose identities are asked for.
type Config struct {
	WorkloadSocket string                  // path of the Workload API's socket; required
	AdminSocket    string                  // path of the Delegated Identity API's socket; required
	TrustDomain    spiffeid.TrustDomain    // required
	Node           string                  // spec.nodeName of the pods; none
	Pods           func(spiffeid.ID) []Pod // those of this node that have an identity now; none
}

// Pod is what registration entries may select a pod by.
type Pod struct {
	UID, Name string
	Labels    map[string]string
}

func (c Config) validate() error {
	var problems []error
	for _, socket := range []struct{ name, path string }{{"WorkloadSocket", c.WorkloadSocket}, {"AdminSocket", c.AdminSocket}} {
		if !filepath.IsAbs(socket.path) {
			problems = append(problems, fmt.Errorf("%s is %q, want an absolute path", socket.name, socket.path))
		}
	}
	if c.TrustDomain.IsZero() {
		problems = append(problems, errors.New("TrustDomain is required"))
	}
	return errors.Join(problems...)
}

var _ certs.Streamer = (*Client)(nil)

// Client is the certs.Issuer that takes SVIDs from SPIRE's agent. It is safe for
// concurrent use. Each Issue makes its own copy of the key, so that whoever has it may
// overwrite it.
type Client struct {
	cfg   Config
	conn  *grpc.ClientConn
	agent delegatedv1.DelegatedIdentityClient

	ctx     context.Context // ends with Close
	end     context.CancelFunc
	streams sync.WaitGroup

	mu            sync.Mutex // guards what follows
	subscriptions map[spiffeid.ID]*subscription
	fresh         map[spiffeid.ID]bool // of which another SVID came; Stream tells them
	bundle        error                // why there is no bundle yet; nil: there is one
	changed       chan struct{}        // closed and replaced when bundle or a subscription changes
	wake          chan struct{}        // holds one: fresh has some
}

var errNoBundle = errors.New("SPIRE's agent has not told the trust bundle yet")

// New does not connect yet.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("client of SPIRE's agent: %w", err)
	}
	if cfg.Pods == nil {
		cfg.Pods = func(spiffeid.ID) []Pod { return nil }
	}
	conn, err := grpc.NewClient("unix://"+cfg.AdminSocket,
		// The socket's file says who may connect, and the agent asks the kernel who does.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 5 * time.Second,
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.5, MaxDelay: lastPause},
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("client of SPIRE's agent: %w", err)
	}
	c := &Client{
		cfg: cfg, conn: conn, agent: delegatedv1.NewDelegatedIdentityClient(conn),
		subscriptions: map[spiffeid.ID]*subscription{}, fresh: map[spiffeid.ID]bool{},
		bundle: errNoBundle, changed: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Close ends all streams, and overwrites the keys that nobody took.
func (c *Client) Close() error {
	c.end()
	c.streams.Wait()
	return c.conn.Close()
}

// Issue returns the SVID that the agent has for id now. The first time it opens the stream
// on which the agent tells. It waits for the first answer until ctx ends; a stream that is
// broken, or an agent that has no SVID for id, fails it at once.
func (c *Client) Issue(ctx context.Context, id spiffeid.ID, _ []byte, _ time.Duration) (certs.Issued, error) {
	if err := c.subscribe(id); err != nil {
		return certs.Issued{}, err
	}
	selectors := c.selectors(id)
	for {
		issued, known, changed, err := c.answer(id, selectors)
		if known || err != nil {
			return issued, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return certs.Issued{}, unanswered(c.cfg.AdminSocket, context.Cause(ctx))
		}
	}
}

// answer is what is known of id, or what tells that something changed. An agent that had
// no SVID for id is asked again if other selectors hold by now.
func (c *Client) answer(id spiffeid.ID, selectors []selector) (issued certs.Issued, known bool, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subscriptions[id]
	switch {
	case s == nil:
		return certs.Issued{}, false, nil, fmt.Errorf("nobody asks for %v any more", id)
	case s.problem != nil:
		s.lookAgain(selectors)
		return certs.Issued{}, false, nil, s.problem
	case s.current == nil:
		return certs.Issued{}, false, c.changed, nil
	case c.bundle != nil && !errors.Is(c.bundle, errNoBundle):
		return certs.Issued{}, false, nil, c.bundle
	case c.bundle != nil:
		return certs.Issued{}, false, c.changed, nil
	}
	issued, err = s.current.issued()
	return issued, err == nil, nil, err
}

// Stream calls replaced with each identity of which another SVID came, until ctx ends.
func (c *Client) Stream(ctx context.Context, replaced func(spiffeid.ID)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		fresh := c.fresh
		c.fresh = map[spiffeid.ID]bool{}
		c.mu.Unlock()
		for id := range fresh {
			replaced(id)
		}
	}
}

// Forget ends the stream of an identity that nobody holds any more.
func (c *Client) Forget(id spiffeid.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.subscriptions[id]; s != nil {
		delete(c.subscriptions, id)
		s.end()
	}
}

// tellLocked has all that wait look again.
func (c *Client) tellLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}
