// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// ready is why certificates cannot be had now, or nil.
func (s *Server) ready() error {
	if s.cfg.Waiting != nil {
		if err := s.cfg.Waiting(); err != nil {
			return err
		}
	}
	if !s.cfg.Placement.Synced() {
		return s.cfg.Placement.unknown()
	}
	return s.unable()
}

// unable is why the CA cannot sign now, or not prove to nodes that it is the CA, or nil.
func (s *Server) unable() error {
	switch {
	case s.cfg.CA.Issuer() == nil:
		return ca.ErrNotOpen
	case time.Until(s.cfg.CA.NotAfter()) < ca.MinTTL:
		return ca.ErrExpired
	}
	_, err := s.certificate(nil)
	return err
}

// cannotSign is the answer to a node because of the CA's own state.
func cannotSign(err error) error {
	if errors.Is(err, ca.ErrNotOpen) {
		return refusal(codes.Unavailable, identityv1.Reason_CA_NOT_READY, "%v", err)
	}
	return refusal(codes.FailedPrecondition, identityv1.Reason_CA_EXPIRED, "%v", err)
}

// authority collects what there is to say of the CA at each scrape: it may get
// another issuer.
type authority struct {
	ca     *ca.CA
	events func() map[string]uint64
}

var (
	expiryDesc = prometheus.NewDesc("culvert_identity_expiry_timestamp_seconds",
		"When the CA's own certificates expire, in Unix time.", []string{"certificate"}, nil)
	eventsDesc = prometheus.NewDesc("culvert_identity_ca_events_total",
		"What happened to the CA where it is kept: another issuer was taken or refused, the root was published, a deleted Secret restored.", []string{"event"}, nil)
)

// Describe is part of prometheus.Collector.
func (a *authority) Describe(out chan<- *prometheus.Desc) { out <- expiryDesc; out <- eventsDesc }

// Collect is part of prometheus.Collector.
func (a *authority) Collect(out chan<- prometheus.Metric) {
	if issuer := a.ca.Issuer(); issuer != nil {
		out <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(issuer.NotAfter.Unix()), "issuer")
	}
	for _, root := range a.ca.Roots() {
		out <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(root.NotAfter.Unix()), "root")
	}
	if a.events == nil {
		return
	}
	for event, n := range a.events() {
		out <- prometheus.MustNewConstMetric(eventsDesc, prometheus.CounterValue, float64(n), event)
	}
}
