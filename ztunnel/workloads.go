// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/workloadapi"
)

// serveWorkloads serves the Workload API to pods until ctx ends, if it is asked for.
func (c Config) serveWorkloads(ctx context.Context, td spiffeid.TrustDomain, members *pods.Pods, store *certs.Store) error {
	if c.WorkloadAPISocket == "" {
		return nil
	}
	ln, err := workloadapi.Listen(c.WorkloadAPISocket)
	if err != nil {
		return fmt.Errorf("%w (-workload-api-socket)", err)
	}
	return workloadapi.New(workloadapi.Config{TrustDomain: td, Caller: members.Caller, Export: store.Export, Bundle: store.ExportBundle, Log: c.levels.Logger(loglevel.Certs)}).Serve(ctx, ln)
}

// workloadAPI says why it cannot be served.
func (c Config) workloadAPI() error {
	if c.WorkloadAPISocket == "" {
		return nil
	}
	if err := workloadapi.Supported(); err != nil {
		return fmt.Errorf("%w (-workload-api-socket)", err)
	}
	if err := workloadapi.Check(c.WorkloadAPISocket); err != nil {
		return fmt.Errorf("-workload-api-socket: %w", err)
	}
	if filepath.Dir(c.WorkloadAPISocket) == filepath.Clean(c.StateDir) { // it may be empty now
		return fmt.Errorf("-workload-api-socket: %s is the state directory (-state-dir), which pods must not mount", filepath.Dir(c.WorkloadAPISocket))
	}
	return nil
}
