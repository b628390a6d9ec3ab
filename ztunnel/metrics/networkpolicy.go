// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// networkPolicies count connections by the namespace whose policies were asked. Namespaces
// beyond maxNetworkNamespaces count together, as long as each of the others has counted
// something within keepFlows.
type networkPolicies struct {
	refused *prometheus.CounterVec

	mu         sync.Mutex           // guards namespaces
	namespaces map[string]time.Time // when each counted last
}

const maxNetworkNamespaces = 512

func (n *networkPolicies) init(r *prometheus.Registry) {
	n.namespaces = map[string]time.Time{}
	n.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "culvert_network_policy_refusals_total",
		Help: "Connections inside the mesh that NetworkPolicies did not admit: refused (mode enforce), or let pass (mode warn).",
	}, []string{"direction", "mode", "policy_namespace"})
	r.MustRegister(n.refused)
}

// NetworkPolicyRefused counts a connection that the NetworkPolicies of a namespace did not
// admit.
func (m *Metrics) NetworkPolicyRefused(direction, mode, namespace string) {
	m.networkPolicies.refused.WithLabelValues(direction, mode, m.networkPolicies.room(namespace)).Inc()
}

func (n *networkPolicies) room(namespace string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if _, has := n.namespaces[namespace]; !has && len(n.namespaces) == maxNetworkNamespaces && !n.forget(now) {
		return other
	}
	n.namespaces[namespace] = now
	return namespace
}

// forget drops the namespace that counted longest ago, unless that is not long; mu is held.
func (n *networkPolicies) forget(now time.Time) bool {
	oldest, at := "", now
	for namespace, last := range n.namespaces {
		if last.Before(at) {
			oldest, at = namespace, last
		}
	}
	if now.Sub(at) < keepFlows {
		return false
	}
	delete(n.namespaces, oldest)
	n.refused.DeletePartialMatch(prometheus.Labels{"policy_namespace": oldest})
	return true
}

// NetworkPoliciesBlocking publishes how many NetworkPolicies f finds that admit connections
// of the node's pods, and not the tunnels that carry them.
func (m *Metrics) NetworkPoliciesBlocking(f func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "culvert_network_policies_blocking_pods",
		Help: "NetworkPolicies that admit connections to or from pods of this node, and not the tunnels that carry them (port 15008).",
	}, func() float64 { return float64(f()) }))
}
