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
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

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

// Config says who calls, and what they get.
type Config struct {
	TrustDomain spiffeid.TrustDomain // required
	// Caller returns the pod of the mesh whose process a pid is, and its identity. required
	Caller func(pid int) (pod string, id spiffeid.ID, err error)
	// Export returns what an identity's pods get, and a channel that is closed when that
	// is another. required
	Export func(ctx context.Context, id spiffeid.ID) (certs.Exported, <-chan struct{}, error)
	Log    *slog.Logger // required
}

// Server is the API.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	cfg    Config
	places places
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
	return s.push(stream.Context(), func(id spiffeid.ID, e certs.Exported) error {
		return stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
			SpiffeId: id.String(), X509Svid: bytes.Join(e.Chain, nil), X509SvidKey: e.Key, Bundle: bytes.Join(e.Roots, nil)}}})
	})
}

// FetchX509Bundles sends the bundle of the trust domain, and again when it changes.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	var last []byte
	return s.push(stream.Context(), func(_ spiffeid.ID, e certs.Exported) error {
		roots := bytes.Join(e.Roots, nil)
		if bytes.Equal(roots, last) {
			return nil
		}
		last = roots
		return stream.Send(&workload.X509BundlesResponse{Bundles: map[string][]byte{s.cfg.TrustDomain.IDString(): roots}})
	})
}

// push calls send with what the caller gets, whenever that is another. Each time the caller
// is asked about anew: a pod may have joined the mesh, or left it.
func (s *Server) push(ctx context.Context, send func(spiffeid.ID, certs.Exported) error) error {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("workload.spiffe.io")) != 1 || md.Get("workload.spiffe.io")[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request") // SPIFFE Workload Endpoint, 6.2
	}
	who, ok := callerOf(ctx)
	if !ok {
		return status.Error(codes.Internal, "the caller is not known")
	}
	var last []byte
	for {
		id, err := who.now(s.cfg.Caller)
		if err != nil {
			return status.Errorf(codes.PermissionDenied, "no identity issued: %v", err)
		}
		exported, changed, err := s.cfg.Export(ctx, id)
		switch {
		case ctx.Err() != nil:
			return status.FromContextError(ctx.Err()).Err()
		case err != nil:
			return status.Errorf(codes.Unavailable, "%v", err)
		}
		if now := bytes.Join(append(exported.Chain, exported.Roots...), nil); !bytes.Equal(now, last) {
			last = now
			if err := send(id, exported); err != nil {
				return err
			}
		}
		clear(exported.Key)
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
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
