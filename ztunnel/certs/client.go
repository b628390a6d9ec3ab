// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

const (
	maxMessage = 256 << 10 // a chain and all roots
	maxToken   = 32 << 10
	maxRoots   = 1 << 20
)

// ClientConfig says which CA a Client asks, and as whom.
type ClientConfig struct {
	Address    string // host:port of the CA; required
	RootFile   string // PEM of the roots that the CA's own certificate chains to, read at each handshake; required
	TokenFile  string // bearer token, read for each request, since it is rotated; required
	ServerName string // DNS name or IP address in the CA's certificate; the host of Address
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

// Client is the Issuer that asks culvert-identity, or istiod, by gRPC.
type Client struct {
	cfg  ClientConfig
	conn *grpc.ClientConn
	ca   identityv1.IstioCertificateServiceClient
}

// NewClient does not connect yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("client of the CA: %w", err)
	}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(cfg.Address)
	}
	c := &Client{cfg: cfg}
	conn, err := grpc.NewClient("dns:///"+cfg.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.tls())),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(), // DNS does not tell us how to talk
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 5 * time.Second,
			// Short, as the Store paces requests above it; and not reset by them:
			// grpc 1.85's ResetConnectBackoff races with its own balancer.
			Backoff: backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.5, MaxDelay: 2 * time.Second},
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("client of the CA: %v", err)
	}
	c.conn, c.ca = conn, identityv1.NewIstioCertificateServiceClient(conn)
	return c, nil
}

// Close ends the connections to the CA.
func (c *Client) Close() error { return c.conn.Close() }

// tls verifies the CA by the root file as it is at that handshake.
func (c *Client) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ServerName:             c.cfg.ServerName,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // by crypto/tls: VerifyConnection does it
		VerifyConnection:       c.verify,
	}
}

func (c *Client) verify(state tls.ConnectionState) error {
	roots, err := readRoots(c.cfg.RootFile)
	if err != nil {
		return fmt.Errorf("roots of the CA: %v", err)
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		DNSName:       c.cfg.ServerName,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func readRoots(path string) (*x509.CertPool, error) {
	text, err := readBounded(path, maxRoots)
	if err != nil {
		return nil, err
	}
	certs, err := parseRoots(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %v", path, err)
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if stat.Size() > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

// Reach returns nil once a CA that the root file vouches for answers anything.
// It calls a method that no CA has: that needs no token, asks for nothing, and
// leaves no line in the CA's log.
func (c *Client) Reach(ctx context.Context) error {
	err := c.conn.Invoke(ctx, "/istio.v1.auth.IstioCertificateService/Reach", &emptypb.Empty{}, &emptypb.Empty{}, grpc.WaitForReady(true))
	if err = c.explain(err); err == nil || errors.Is(err, ErrRefused) {
		return nil
	}
	return err
}

// Issue asks the CA for a leaf that names id.
func (c *Client) Issue(ctx context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (Issued, error) {
	token, err := readBounded(c.cfg.TokenFile, maxToken)
	if err != nil {
		return Issued{}, fmt.Errorf("token for the CA: %v", err)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)))
	request := &identityv1.IstioCertificateRequest{
		Csr:              string(csr),
		ValidityDuration: int64(ttl / time.Second),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			identityv1.ImpersonatedIdentity: structpb.NewStringValue(id.String()),
		}},
	}
	response, err := c.ca.CreateCertificate(ctx, request, grpc.WaitForReady(true))
	if err != nil {
		return Issued{}, c.explain(err)
	}
	return parseIssued(response.GetCertChain())
}

// explain keeps the CA's own sentence, and tells a refusal from silence.
func (c *Client) explain(err error) error {
	code := status.Code(err)
	switch code {
	case codes.OK:
		return nil
	case codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.ResourceExhausted, codes.FailedPrecondition:
		return fmt.Errorf("%w: %v: %s", ErrRefused, code, status.Convert(err).Message())
	}
	return fmt.Errorf("ask the CA at %s: %v: %s", c.cfg.Address, code, status.Convert(err).Message())
}
