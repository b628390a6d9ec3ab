// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/loopback"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// run is the CA until ctx ends.
func run(ctx context.Context, cfg config) error {
	placement := server.NewPlacement()
	placement.Log = cfg.log
	known := server.NewAccounts(cfg.log)
	names := &leafNames{wanted: cfg.dnsSANs}
	workloads, sourceErr := cfg.source(placement, known, names)
	attestor, attestErr := cfg.attestor(placement)
	joins, joinErr := cfg.joins()
	var signer *authority
	denied, denyErr := cfg.denials(func() []*x509.Certificate { return issuedBy(signer.ca) })
	if err := errors.Join(isDirectory("dir", cfg.dir, false), sourceErr, attestErr, joinErr, denyErr); err != nil {
		return err
	}
	placement.Trouble = func() string { return workloads.Stats().LastError }
	signer, err := cfg.authority(ctx)
	if err != nil {
		return err
	}
	kept, err := cfg.openLedger(signer.ca, signer.keeper.Happened)
	if err != nil {
		return err
	}
	others, err := cfg.federated(signer.ca)
	if err != nil {
		return err
	}
	endpoint, err := cfg.openEndpoint(signer.ca)
	if err != nil {
		return err
	}
	defer endpoint.close()
	config := server.Config{
		CA:           signer.ca,
		Attestor:     attestor,
		Placement:    placement,
		Accounts:     known,
		Join:         joins,
		DNSNames:     cfg.dnsNames,
		NodeAccounts: cfg.nodeAccounts,
		TTL:          cfg.ttl,
		Store:        cfg.store(),
		Waiting:      signer.waiting,
		Trouble:      signer.keeper.Trouble,
		Renewal:      signer.keeper.Renewal,
		Events:       signer.events,
		ClockSkew:    cfg.clockSkew,
		Denied:       denied.set,
		Federation:   others,
		RefreshHint:  cfg.refreshHint,
		Ledger:       kept.ledger,
		LedgerFailed: kept.failed(),
		Log:          cfg.log,
	}
	tainter, err := cfg.tainter()
	if err != nil {
		return err
	}
	verdicts, err := cfg.verdicts()
	if err != nil {
		return err
	}
	var service *server.Server
	rekeyer, err := cfg.rekeyer(signer, func(since time.Time) rekey.Report { return service.Heard(since) })
	if err != nil {
		return err
	}
	config.Rekey = rekeyer.Status
	if endpoint != nil {
		config.EndpointTrouble = endpoint.trouble
	}
	service, err = server.New(config)
	if err != nil {
		return err
	}
	defer kept.keep(service.UseLedger)() // ends when no request is answered any more
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
	admin, err := loopback.Listen(cfg.admin)
	if err != nil {
		return refused("admin-address", err)
	}
	defer admin.Close()
	cfg.log.Info("certificate authority started", logTrustDomain, cfg.trustDomain.String(), logAddress, nodes.Addr().String())

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return denied.run(ctx) })
	group.Go(func() error {
		registry := workload.NewRegistry(nil) // of before: a Namespace that vanished takes no pod out of the mesh
		return workloads.Run(ctx, func(s source.Snapshot) {
			registry.Replace(s.Mesh)
			known.Replace(serviceAccounts(s.Accounts.ByName), s.Accounts.TTL, s.Policies.RootNamespace)
			names.learn(registry.All().Services)
			placement.Replace(running(registry.All(), names), cfg.agents(registry.All()))
		})
	})
	group.Go(func() error { return signer.run(ctx) })
	group.Go(func() error { return rekeyer.Run(ctx) })
	if tainter != nil {
		group.Go(func() error { return tainter.Run(ctx) })
	}
	if verdicts != nil {
		group.Go(func() error { return verdicts.Run(ctx) })
	}
	if others != nil {
		group.Go(func() error { return others.Run(ctx) })
	}
	if endpoint != nil {
		group.Go(func() error { return service.ServeBundle(ctx, endpoint.listener, endpoint.certificate) })
	}
	group.Go(func() error { return service.Serve(ctx, nodes) })
	group.Go(func() error { return service.ServeMetrics(ctx, metrics) })
	group.Go(func() error { return service.ServeAdmin(ctx, admin) })
	return group.Wait()
}

// store says where the CA is kept.
func (c *config) store() string {
	if c.secret != "" {
		return "Secret " + c.secret
	}
	return "directory " + c.dir
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
