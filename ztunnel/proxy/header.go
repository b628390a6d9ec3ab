// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// header describes the source of a stream to the peer, in the form of Istio's
// ztunnel. Nothing is decided by it, at either end.
func header(baggage string, client netip.AddrPort, service *workload.Service) hbone.Header {
	forwarded := append(make([]byte, 0, 64), `for="`...)
	forwarded = append(client.AppendTo(forwarded), '"')
	if service != nil {
		forwarded = append(append(forwarded, ";host="...), service.Hostname()...)
	}
	return hbone.Header{Baggage: baggage, Forwarded: string(forwarded), Traceparent: traceparent()}
}

// baggage is that of self, which whoWeAre returned.
func (p *Pod) baggage(self *workload.Workload) string {
	if s := p.known.Load(); s != nil && &s.workload == self {
		return s.baggage
	}
	return baggage(p.cluster(), self) // of a snapshot that was replaced meanwhile
}

// baggage lists what is known of a workload; keys without a value are left out.
func baggage(cluster string, w *workload.Workload) string {
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
	var ids [24]byte
	for i := 0; i < len(ids); i += 8 {
		binary.NativeEndian.PutUint64(ids[i:], rand.Uint64())
	}
	b := hex.AppendEncode(append(make([]byte, 0, 55), "00-"...), ids[:16])
	b = hex.AppendEncode(append(b, '-'), ids[16:])
	return string(append(b, "-00"...))
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
