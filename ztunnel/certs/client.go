// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/regular"
)

const (
	maxMessage = identityv1.MaxBatch*maxChainSize + maxRoots // what one Sign may answer
	maxToken   = 32 << 10
	maxRoots   = 1 << 20
)

// ClientConfig says which CA a Client asks, and as whom.
type ClientConfig struct {
	Address    string        // host:port of the CA; required
	RootFile   string        // PEM of the roots that the CA's own certificate chains to, read at each handshake; required
	TokenFile  string        // bearer token, read for each request, since it is rotated; required
	ServerName string        // DNS name or IP address in the CA's certificate; the host of Address
	ClockSkew  time.Duration // how far the CA's clock may be off; 0
	// Vouch says which roots vouch for the CA itself, given those of RootFile, if somebody
	// knows better than a file that may be years old: Store.VouchForCA; those of the file.
	Vouch func(file []*x509.Certificate) (vouching []*x509.Certificate, generation uint64)
	// Endpoints are the addresses of the CA's replicas that serve now, if somebody
	// knows them without DNS; while there are none, DNS is asked for Address's host.
	Endpoints func() []netip.AddrPort
}

func (c ClientConfig) validate() error {
	var problems []error
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		problems = append(problems, fmt.Errorf("address is not host:port: %v", err))
	}
	if c.RootFile == "" {
		problems = append(problems, errors.New("RootFile is required"))
	}
	if c.TokenFile == "" {
		problems = append(problems, errors.New("TokenFile is required"))
	}
	return errors.Join(problems...)
}

var _ interface { // Run and New ask for each of these
	Issuer
	batcher
	checker
	Follower
	denier
} = (*Client)(nil)

// Client is the Issuer that asks culvert-identity, or istiod, by gRPC: one replica
// after the other until one answers.
type Client struct {
	cfg      ClientConfig
	link     *link
	names    *names
	replicas *replicas
	denying  seats

	issued atomic.Bool            // since the last Check
	tried  atomic.Pointer[Answer] // of a CA that has no Check, the last time that it was asked to sign
}

// NewClient does not connect yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("client of the CA: %w", err)
	}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(cfg.Address)
	}
	c := &Client{cfg: cfg, link: newLink(cfg), names: newNames(cfg.Address)}
	c.replicas = newReplicas(c.link.connect)
	c.denying.of = map[seat]int{}
	return c, nil
}

// connect returns a connection to one address that is made at the first request.
func (l *link) connect(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(l),
		grpc.WithContextDialer(l.dial),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 5 * time.Second,
			// Short, as the Store paces requests above it; and not reset by them:
			// grpc 1.85's ResetConnectBackoff races with its own balancer.
			Backoff: backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.5, MaxDelay: 2 * time.Second},
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
}

// Close ends the connections to the CA.
func (c *Client) Close() error {
	c.names.close()
	c.replicas.close()
	return nil
}

// roundPause is how long IssueAll waits after all replicas failed.
const roundPause = 100 * time.Millisecond

// Issue asks the CA for a leaf that names id. While nobody answers, it asks again until
// ctx ends.
func (c *Client) Issue(ctx context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (Issued, error) {
	result := c.IssueAll(ctx, []Request{{ID: id, CSR: csr, TTL: ttl}})[0]
	return result.Issued, result.Err
}

func (c *Client) create(ctx context.Context, request *identityv1.IstioCertificateRequest) (*identityv1.IstioCertificateResponse, error) {
	return ask(ctx, c, func(ctx context.Context, r *replica) (*identityv1.IstioCertificateResponse, error) {
		return r.ca.CreateCertificate(ctx, request)
	})
}

// isAway reports whether no CA said anything.
func isAway(err error) bool {
	return status.Code(err) == codes.Unavailable && wordOf(err) == identityv1.Reason_REASON_UNSPECIFIED
}

// authorize adds the token as it is in the file now.
func (c *Client) authorize(ctx context.Context) (context.Context, error) {
	token, err := regular.ReadFile(c.cfg.TokenFile, maxToken)
	if err != nil {
		return nil, problem(TokenFile, "token for the CA: %v", err)
	}
	token = bytes.TrimSpace(token)
	if len(token) == 0 {
		return nil, problem(TokenFile, "token for the CA: %s is empty", c.cfg.TokenFile)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+string(token)), nil
}
