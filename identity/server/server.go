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
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/federation"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/ledger"
	"github.com/culvert-mesh/culvert/identity/rekey"
)

const (
	maxMessage  = 64 << 10 // before anything is decoded
	maxHeaders  = 64 << 10
	maxInFlight = 1024 // requests, of all nodes
	grace       = 5 * time.Second
)

// Config says whom a Server serves.
type Config struct {
	CA              *ca.CA                    // required
	Attestor        Attestor                  // required
	Placement       *Placement                // required
	Accounts        *Accounts                 // ServiceAccounts and lifetimes; none are known
	Join            join.Store                // of processes outside Kubernetes, which may ask for their own identity; none may
	DNSNames        []string                  // in the server's own certificate; required
	NodeAccounts    []identity.ServiceAccount // whose tokens speak for a node; culvert-system/ztunnel
	TTL             time.Duration             // of a leaf, unless less is asked for; 1 h
	ClockSkew       time.Duration             // as the CA's; then nodes are told when to renew; 0
	NodeRate        float64                   // requests per second of one node, in the long run; 50
	NodeBurst       int                       // and at once; 200
	IDRate          float64                   // certificates per second of one identity for one node, in the long run; 0.2
	IDBurst         int                       // and at once; 30
	Denied          *deny.Set                 // what gets no certificate; nothing
	Ledger          *ledger.Ledger            // keeps each decision; nobody does. Its Run must end after Serve
	LedgerFailed    bool                      // there should be a Ledger, and it cannot be opened: UseLedger may follow
	Waiting         func() error              // why nodes cannot be served yet, beside what the Server knows; nothing
	Store           string                    // where the CA is kept, as "directory /var/lib/ca"; not said
	Trouble         func() ca.Trouble         // with what is kept there now; none
	Renewal         func() ca.Renewal         // how the issuer will be renewed; not said
	Rekey           func() rekey.Status       // how far a re-key of the root is; not said
	Events          func() map[string]uint64  // how often what happened to the CA where it is kept; no events
	Federation      *federation.Federation    // the bundles of other trust domains; none
	EndpointTrouble func() string             // why the bundle endpoint's certificate is not what was written last; nothing is wrong
	RefreshHint     time.Duration             // what ServeBundle tells others; federation.DefaultRefresh
	Log             *slog.Logger              // slog.Default()
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
	require(!slices.Contains(c.DNSNames, ""), "DNSNames has an empty name")
	require(c.TTL == 0 || ca.MinTTL <= c.TTL && c.TTL <= ca.MaxTTL, fmt.Sprintf("TTL is %v, want %v to %v", c.TTL, ca.MinTTL, ca.MaxTTL))
	require(c.RefreshHint == 0 || c.RefreshHint >= time.Second, "RefreshHint is less than a second")
	require(c.NodeRate >= 0, "NodeRate is negative")
	require(c.NodeBurst >= 0, "NodeBurst is negative")
	require(c.IDRate >= 0, "IDRate is negative")
	require(c.IDBurst >= 0, "IDBurst is negative")
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
	if c.IDRate == 0 {
		c.IDRate = 0.2
	}
	if c.IDBurst == 0 {
		c.IDBurst = 30
	}
	if c.RefreshHint == 0 {
		c.RefreshHint = federation.DefaultRefresh
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Accounts == nil {
		c.Accounts = NewAccounts(c.Log)
	}
	return c
}

// Server is istio.v1.auth.IstioCertificateService, and NodeService and
// CertificateService of culvert.identity.v1.
type Server struct {
	identityv1.UnimplementedIstioCertificateServiceServer
	identityv1.UnimplementedNodeServiceServer
	identityv1.UnimplementedCertificateServiceServer

	cfg         Config
	certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	limits      *limits
	inFlight    chan struct{} // holds one for each request
	herd        herd          // of those that found it full
	often       *often
	signing     *gate
	awaiting    *gate         // of what a signer of the CA signs, elsewhere
	storePlaces chan struct{} // holds one for each call of cfg.Join that has not returned, but for
	tokenPlaces chan struct{} // those that look a stranger's token up
	metrics     *metrics
	refusals    *refusals
	accountant  *accountant
	visits      *visits
	bundles     *streams // of StreamBundle
	denials     *streams // of StreamDeny
	denySent    denyParts
	bundleSent  bundleMessage
	acks        *acks // of StreamBundle
	denyAcks    *acks // of StreamDeny
	leaves      *leaves
}

// New returns a Server that does not serve yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("identity server: %w", err)
	}
	cfg = cfg.withDefaults()
	s := &Server{
		cfg:         cfg,
		certificate: cfg.CA.ServerCertificate(cfg.DNSNames...),
		limits:      newLimits(cfg.NodeRate, cfg.NodeBurst),
		inFlight:    make(chan struct{}, maxInFlight),
		often:       newOften(cfg.IDRate, cfg.IDBurst),
		signing:     newGate(runtime.GOMAXPROCS(0)),
		awaiting:    newGate(signerAtOnce),
		storePlaces: make(chan struct{}, storeAtOnce),
		tokenPlaces: make(chan struct{}, storeAtOnce),
		refusals:    newRefusals(cfg.Log),
		accountant:  newAccountant(cfg),
		visits:      newVisits(),
		bundles:     newStreams(),
		denials:     newStreams(),
		acks:        &acks{byNode: make(map[string]Ack)},
		leaves:      newLeaves(),
		denyAcks:    &acks{byNode: make(map[string]Ack)},
	}
	s.metrics = newMetrics(s.refusals.total, &authority{ca: cfg.CA, serving: s.certificate, events: cfg.Events, trouble: cfg.Trouble, renewal: cfg.Renewal, targets: s.targets})
	s.metrics.registry.MustRegister(followers{s})
	if cfg.Rekey != nil {
		s.metrics.registry.MustRegister(rekeying(cfg.Rekey))
	}
	if cfg.Federation != nil {
		s.metrics.registry.MustRegister(federating(cfg.Federation))
	}
	s.metrics.registry.MustRegister(written(cfg), s.accountant.collector())
	if asked, ok := cfg.Attestor.(prometheus.Collector); ok {
		s.metrics.registry.MustRegister(asked)
	}
	return s, nil
}

// Serve answers on ln until ctx ends, and then lets requests finish for 5 s.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:             tls.VersionTLS13,
			GetCertificate:         s.certificate,
			SessionTicketsDisabled: true, // CVE-2025-68121
			ClientAuth:             s.clientAuth(),
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
		grpc.StreamInterceptor(s.during(ctx)),
	)
	identityv1.RegisterIstioCertificateServiceServer(server, s)
	identityv1.RegisterNodeServiceServer(server, s)
	identityv1.RegisterCertificateServiceServer(server, s)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		force := time.AfterFunc(grace, server.Stop)
		defer force.Stop()
		server.GracefulStop()
	})
	err := server.Serve(newDoor(ln, roomFor(descriptors()), proveWithin))
	if !stop() {
		<-stopped
		return nil
	}
	server.Stop()
	return fmt.Errorf("serve the identity service: %w", err)
}

// clientAuth asks for a certificate where processes renew by theirs. Whose it is, and
// whether it holds, is asked for each request: a connection may outlive it.
func (s *Server) clientAuth() tls.ClientAuthType {
	if s.cfg.Join == nil {
		return tls.NoClientCert
	}
	return tls.RequestClientCert
}

// recover turns a panic into the failure of one request. What nodes send is
// parsed before we know that they are ours.
func (s *Server) recover(ctx context.Context, request any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (response any, err error) {
	defer func() {
		if p := recover(); p != nil {
			response, err = nil, s.panicked(call.FullMethod, p)
		}
	}()
	return handle(ctx, request)
}

func (s *Server) panicked(method string, p any) error {
	s.cfg.Log.Error("request panicked", logMethod, method, logError, fmt.Sprint(p), logStack, string(debug.Stack()))
	s.metrics.requests.WithLabelValues(codes.Internal.String(), word(nil)).Inc()
	return status.Error(codes.Internal, "the CA could not handle the request; its log says more")
}

var errStopping = errors.New("this replica of the CA stops")

// during ends streams with serving: they would keep the server from ending in good
// order. It recovers as recover does.
func (s *Server) during(serving context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, call *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = s.panicked(call.FullMethod, p)
			}
		}()
		ctx, end := context.WithCancelCause(stream.Context())
		defer end(nil)
		defer context.AfterFunc(serving, func() { end(errStopping) })()
		return handle(srv, served{stream, ctx})
	}
}

// served is a stream that ends with the server.
type served struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the stream's.
func (s served) Context() context.Context { return s.ctx }
