// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// header describes the source of a stream to the peer, in the form of Istio's
// ztunnel. Nothing is decided by it, at either end.
func header(cluster string, self workload.Workload, client netip.AddrPort, service *workload.Service) hbone.Header {
	forwarded := `for="` + client.String() + `"`
	if service != nil {
		forwarded += ";host=" + service.Hostname()
	}
	return hbone.Header{Baggage: baggage(cluster, self), Forwarded: forwarded, Traceparent: traceparent()}
}

// baggage lists what is known of a workload; keys without a value are left out.
func baggage(cluster string, w workload.Workload) string {
	kind := "k8s.deployment.name"
	if w.Owner == w.Name {
		kind = "k8s.pod.name"
	}
	var list []string
	for _, member := range [][2]string{
		{"k8s.cluster.name", cluster},
		{"k8s.namespace.name", w.Namespace},
		{kind, w.Owner},
		{"service.name", w.CanonicalName},
		{"service.version", w.CanonicalRevision},
	} {
		if member[1] != "" {
			list = append(list, member[0]+"="+member[1])
		}
	}
	return strings.Join(list, ",")
}

// traceparent is a new W3C trace context, not sampled.
func traceparent() string {
	return fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64(), rand.Uint64(), rand.Uint64())
}

// forwardedHost returns the host of a forwarded header, or "".
func forwardedHost(forwarded string) string {
	for pair := range strings.SplitSeq(forwarded, ";") {
		if key, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && strings.EqualFold(key, "host") {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}
