// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"fmt"
	"log/slog"

	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/otlp"
)

// Attributes of the resource that sends records, by OpenTelemetry's conventions.
const (
	resourceService = "service.name"
	resourceVersion = "service.version"
	resourceNode    = "k8s.node.name"
	resourceCluster = "k8s.cluster.name"
)

// access is where access records go: to the log and, if there is an exporter, to that.
func (c Config) access(counts *metrics.Metrics) (*slog.Logger, *otlp.Exporter, error) {
	log := c.levels.Logger(loglevel.Access)
	if c.OTLPEndpoint == "" {
		return log, nil, nil
	}
	exporter, err := otlp.New(otlp.Config{
		Endpoint: c.OTLPEndpoint, RootFile: c.OTLPRootFile, Log: c.levels.Logger(loglevel.Export),
		Resource: []slog.Attr{
			slog.String(resourceService, "ztunnel"), slog.String(resourceVersion, version()),
			slog.String(resourceNode, c.NodeName), slog.String(resourceCluster, c.Cluster),
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("export of access records (-otlp-endpoint, -otlp-root): %w", err)
	}
	counts.AccessExported(exporter.Stats)
	return slog.New(exporter.Handler(log.Handler())), exporter, nil
}
