// SPDX-License-Identifier: Apache-2.0

// Package server is the CA's service: it decides, for each request of a node,
// whether the node may have the identity that it asks for, and writes the
// decision down. What makes certificates is identity/ca.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

const (
	maxMessage  = 64 << 10 // before anything is decoded
	maxHeaders  = 64 << 10
	maxInFlight = 1024 // requests, of all nodes
	grace       = 5 * time.Second
)

// Config says whom a Server serves.
type Config struct {
	CA           *ca.CA                    // required
	Attestor     Attestor                  // required
	Placement    *Placement                // required
	DNSNames     []string                  // in the server's own certificate; required
	NodeAccounts []identity.ServiceAccount // whose tokens speak for a node; culvert-system/ztunnel
	TTL          time.Duration             // of a leaf, unless less is asked for; 1 h
	NodeRate     float64                   // requests per second of one node, in the long run; 50
	NodeBurst    int                       // and at once; 200
	Waiting      func() error              // why nodes cannot be served yet, beside what the Server knows; nothing
	Events       func() map[string]uint64  // how often what happened to the CA where it is kept; no events
	Log          *slog.Logger              // slog.Default()
}

// Validate returns all that is wrong with the Config.
func (c Config) Validate() error {
	var problems []error
	require := func(ok bool, problem string) {
		if !ok {
			problems = append(problems, errors.New(problem))
		}
	}
	require(c.CA != nil, "CA is required")
	require(c.Attestor != nil, "Attestor is required")
	require(c.Placement != nil, "Placement is required")
	require(len(c.DNSNames) > 0, "DNSNames is required")
	require(c.TTL == 0 || ca.MinTTL <= c.TTL && c.TTL <= ca.MaxTTL, fmt.Sprintf("TTL is %v, want %v to %v", c.TTL, ca.MinTTL, ca.MaxTTL))
	require(c.NodeRate >= 0, "NodeRate is negative")
	require(c.NodeBurst >= 0, "NodeBurst is negative")
	return errors.Join(problems...)
}

func (c Config) withDefaults() Config {
	if len(c.NodeAccounts) == 0 {
		c.NodeAccounts = []identity.ServiceAccount{{Namespace: "culvert-system", Name: "ztunnel"}}
	}
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	if c.NodeRate == 0 {
		c.NodeRate = 50
	}
	if c.NodeBurst == 0 {
		c.NodeBurst = 200
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Server is istio.v1.auth.IstioCertificateService and
// culvert.identity.v1.NodeService.
type Server struct {
	identityv1.UnimplementedIstioCertificateServiceServer
	identityv1.UnimplementedNodeServiceServer

	cfg         Config
	certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	limits      *limits
	inFlight    chan struct{} // holds one for each request
	signing     chan struct{} // holds one for each signature: they take a core each
	metrics     *metrics
	refusals    *refusals
}

// New returns a Server that does not serve yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("identity server: %w", err)
	}
	cfg = cfg.withDefaults()
	refusals := newRefusals(cfg.Log)
	return &Server{
		cfg:         cfg,
		certificate: cfg.CA.ServerCertificate(cfg.DNSNames...),
		limits:      newLimits(cfg.NodeRate, cfg.NodeBurst),
		inFlight:    make(chan struct{}, maxInFlight),
		signing:     make(chan struct{}, runtime.GOMAXPROCS(0)),
		metrics:     newMetrics(cfg, refusals.total),
		refusals:    refusals,
	}, nil
}

// Serve answers on ln until ctx ends, and then lets requests finish for 5 s.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:             tls.VersionTLS13,
			GetCertificate:         s.certificate,
			SessionTicketsDisabled: true, // CVE-2025-68121
		})),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(16), // each may hold a window of 64 KiB, on a stranger's connection too
		grpc.ConnectionTimeout(10*time.Second),
		// The age makes nodes find new replicas. gRPC adds jitter.
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: 30 * time.Minute, MaxConnectionAgeGrace: time.Minute,
			Time: time.Minute, Timeout: 20 * time.Second,
		}),
		// Istio's ztunnel pings every 30 s, whether it has a request or not.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.recover),
	)
	identityv1.RegisterIstioCertificateServiceServer(server, s)
	identityv1.RegisterNodeServiceServer(server, s)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		force := time.AfterFunc(grace, server.Stop)
		defer force.Stop()
		server.GracefulStop()
	})
	err := server.Serve(&door{Listener: ln, room: roomFor(descriptors()), deadline: proveWithin})
	if !stop() {
		<-stopped
		return nil
	}
	server.Stop()
	return fmt.Errorf("serve the identity service: %w", err)
}

// recover turns a panic into the failure of one request. What nodes send is
// parsed before we know that they are ours.
func (s *Server) recover(ctx context.Context, request any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (response any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("request panicked", logMethod, call.FullMethod, logError, fmt.Sprint(p), logStack, string(debug.Stack()))
			s.metrics.requests.WithLabelValues(codes.Internal.String()).Inc()
			response, err = nil, status.Error(codes.Internal, "the CA could not handle the request; its log says more")
		}
	}()
	return handle(ctx, request)
}
