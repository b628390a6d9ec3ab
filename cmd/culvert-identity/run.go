// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// run is the CA until ctx ends.
func run(ctx context.Context, cfg config) error {
	placement := server.NewPlacement()
	workloads, sourceErr := cfg.source(placement)
	attestor, attestErr := cfg.attestor(placement)
	if err := errors.Join(isDirectory("dir", cfg.dir, false), sourceErr, attestErr); err != nil {
		return err
	}
	placement.Trouble = func() string { return workloads.Stats().LastError }
	authority, keeper, err := cfg.authority()
	if err != nil {
		return err
	}
	config := server.Config{
		CA:           authority,
		Attestor:     attestor,
		Placement:    placement,
		DNSNames:     cfg.dnsNames,
		NodeAccounts: cfg.nodeAccounts,
		TTL:          cfg.ttl,
		Log:          cfg.log,
	}
	if keeper != nil {
		config.Waiting, config.Events = keeper.Waiting, keeper.Events
	}
	service, err := server.New(config)
	if err != nil {
		return err
	}
	nodes, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return refused("listen", err)
	}
	defer nodes.Close()
	metrics, err := net.Listen("tcp", cfg.metrics)
	if err != nil {
		return refused("metrics-address", err)
	}
	defer metrics.Close()
	cfg.log.Info("certificate authority started", logTrustDomain, cfg.trustDomain.String(), logAddress, nodes.Addr().String())
	if issuer := authority.Issuer(); issuer != nil {
		cfg.log.Info("certificate authority is open", logDir, cfg.dir, logRootUntil, authority.Roots()[0].NotAfter, logIssuerUntil, issuer.NotAfter)
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		known := workload.NewRegistry(nil) // of before: a Namespace that vanished takes no pod out of the mesh
		return workloads.Run(ctx, func(s source.Snapshot) {
			known.Replace(s.Mesh)
			placement.Replace(running(known.All()), agents(known.All(), cfg.nodeAccounts))
		})
	})
	if keeper != nil {
		group.Go(func() error { return keeper.Run(ctx) })
	}
	group.Go(func() error { return service.Serve(ctx, nodes) })
	group.Go(func() error { return service.ServeMetrics(ctx, metrics) })
	return group.Wait()
}

// isDirectory refuses a path that is something else, and, if it must exist, one
// that is not there.
func isDirectory(flag, path string, must bool) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !must:
		return nil
	case err == nil && !st.IsDir():
		err = fmt.Errorf("%s is not a directory", path)
	}
	return refused(flag, err)
}

// refused names the flag that led to err.
func refused(flag string, err error) error {
	if err != nil {
		return fmt.Errorf("-%s: %w", flag, err)
	}
	return nil
}
