// SPDX-License-Identifier: Apache-2.0

// Package workloadapi serves SPIFFE's Workload API to the node's pods: each gets the
// X509-SVID of its own ServiceAccount with the key, and the trust bundle, and both again
// whenever they change.
//
//	accept -> whose process? (peer.go) -> a place -> for each stream: which pod? (Config.Caller)
//
// Who calls is the kernel's word alone. Whoever is no process of a pod of the mesh gets
// PermissionDenied, and may ask again on the same connection: its pod may join later.
package workloadapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

// What pods may hold. A client needs one connection, and a stream or two.
const (
	maxConnections    = 1024
	maxConnectionsPod = 16
	maxStreams        = 16 // of one connection
	maxMessage        = 4 << 10
	maxHeaders        = 8 << 10
	handshakeWithin   = 5 * time.Second
	idleFor           = 5 * time.Minute
)

var (
	calls    = rate.Limit{PerSecond: 2, Burst: 32}       // of one connection
	warnings = rate.Limit{PerSecond: 1.0 / 60, Burst: 1} // of connections that get no place
)

// Config says who calls, and what they get.
type Config struct {
	TrustDomain spiffeid.TrustDomain // required
	// Caller returns the pod of the mesh whose process a pid is, and its identity. required
	Caller func(pid int) (pod string, id spiffeid.ID, err error)
	// Export returns what an identity's pods get, and a channel that is closed when that
	// is another. required
	Export func(ctx context.Context, id spiffeid.ID) (certs.Exported, <-chan struct{}, error)
	// Bundle returns the roots, none while there are none, and a channel that is closed when
	// they are others. required
	Bundle func() (roots [][]byte, changed <-chan struct{})
	Log    *slog.Logger // required
}

// Server is the API.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	cfg    Config
	places places

	mu      sync.Mutex // guards what follows
	warned  rate.Left
	refused int // since the last warning
}

// New returns a Server that nobody can reach yet.
func New(cfg Config) *Server { return &Server{cfg: cfg, places: places{held: map[string]int{}}} }

// Serve answers on ln, which it closes, until ctx ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(
		grpc.Creds(attestor{s}),
		grpc.ConnectionTimeout(handshakeWithin),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleFor}),
	)
	workload.RegisterSpiffeWorkloadAPIServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
		return fmt.Errorf("serve the Workload API: %w", err)
	}
	return nil
}

// FetchX509SVID sends the caller its SVID, with the bundle, and again when either changes.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	var last []byte
	return s.push(stream.Context(), func(id spiffeid.ID) (<-chan struct{}, error) {
		e, changed, err := s.cfg.Export(stream.Context(), id)
		if err != nil {
			return nil, status.Errorf(codes.Unavailable, "%v", err)
		}
		defer clear(e.Key)
		chain, roots := bytes.Join(e.Chain, nil), bytes.Join(e.Roots, nil)
		if now := slices.Concat(chain, roots); !bytes.Equal(now, last) {
			last = now
			err = stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
				SpiffeId: id.String(), X509Svid: chain, X509SvidKey: e.Key, Bundle: roots}}})
		}
		return changed, err
	})
}

// FetchX509Bundles sends the bundle of the trust domain, and again when it changes.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	var last []byte
	return s.push(stream.Context(), func(spiffeid.ID) (changed <-chan struct{}, err error) {
		der, changed := s.cfg.Bundle()
		if roots := bytes.Join(der, nil); !bytes.Equal(roots, last) {
			last = roots
			err = stream.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{s.cfg.TrustDomain.IDString(): roots}})
		}
		return changed, err
	})
}

// push calls send, which sends what is new to the caller, and again when the channel that
// send returned is closed. Each time the caller is asked about anew: a pod may have joined
// the mesh, or left it.
func (s *Server) push(ctx context.Context, send func(spiffeid.ID) (<-chan struct{}, error)) error {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("workload.spiffe.io")) != 1 || md.Get("workload.spiffe.io")[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request") // SPIFFE Workload Endpoint, 6.2
	}
	who, ok := callerOf(ctx)
	if !ok {
		return status.Error(codes.Internal, "the caller is not known")
	}
	if !who.mayCall() {
		return status.Error(codes.ResourceExhausted, "this connection calls too often")
	}
	for {
		id, err := who.now(s.cfg.Caller)
		if err != nil {
			return status.Errorf(codes.PermissionDenied, "no identity issued: %v", err)
		}
		changed, err := send(id)
		switch {
		case ctx.Err() != nil:
			return status.FromContextError(ctx.Err()).Err()
		case err != nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// warn says that a connection of pod got no place, at most once a minute.
func (s *Server) warn(pod string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused++
	if s.warned.Spend(warnings) {
		s.cfg.Log.Warn("a pod has too many connections to the Workload API", logPod, pod, logRefused, s.refused)
		s.refused = 0
	}
}

func callerOf(ctx context.Context) (*caller, bool) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	who, ok := from.AuthInfo.(*caller)
	return who, ok
}
