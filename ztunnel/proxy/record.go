// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Field names of the access record. Those with a dot, direction, the bytes,
// duration and error are Istio's ztunnel's, whose users search for them.
const (
	fieldScope        = "scope"
	fieldSrcCluster   = "src.cluster"
	fieldDstCluster   = "dst.cluster"
	fieldSrcAddr      = "src.addr"
	fieldSrcWorkload  = "src.workload"
	fieldSrcNamespace = "src.namespace"
	fieldSrcIdentity  = "src.identity"
	fieldDstAddr      = "dst.addr"
	fieldDstHBONEAddr = "dst.hbone_addr"
	fieldDstService   = "dst.service"
	fieldDstWorkload  = "dst.workload"
	fieldDstNamespace = "dst.namespace"
	fieldDstIdentity  = "dst.identity"
	fieldDirection    = "direction"
	fieldPath         = "path"
	fieldBytesSent    = "bytes_sent"
	fieldBytesRecv    = "bytes_recv"
	fieldDuration     = "duration"
	fieldResult       = "result"
	fieldFlags        = "response_flags"
	fieldPolicy       = "policy"
	fieldPolicyDryRun = "policy_dry_run"
	fieldNetworkWarn  = "network_policy_warn"
	fieldSourceWarn   = "source_warn"
	fieldError        = "error"
	fieldOmitted      = "omitted" // failures alike that have no record
	fieldSampled      = "sampled" // good ends for which the record stands
)

// direction is how a connection stands to the pod.
type direction string

const (
	inbound  direction = "inbound"
	outbound direction = "outbound"
)

func (d direction) reporter() string {
	if d == outbound {
		return metrics.Source
	}
	return metrics.Destination
}

// How the bytes went: in a tunnel, plainly because policy allows it, or without
// leaving the node or even the pod.
const (
	pathTunnel      = "tunnel"
	pathPassthrough = "passthrough"
	pathLocal       = "local"
)

// end is one end of a connection.
type end struct {
	addr netip.AddrPort
	// workload gives names, for people. It is what the registry has at an
	// address, and right only as far as that. Nil: nothing.
	workload *workload.Workload
	// identity is proven: by the certificate that was verified, or by the
	// netns that the connection came from or goes to.
	identity string
}

var nobody workload.Workload

// known is the workload, or one without any names.
func (e *end) known() *workload.Workload {
	if e.workload == nil {
		return &nobody
	}
	return e.workload
}

// record is what one access line says.
type record struct {
	direction direction
	path      string
	start     time.Time
	src, dst  end
	asked     netip.AddrPort    // what an app connected to: of a Service, its address
	hbone     netip.AddrPort    // the target inside the tunnel; zero: no tunnel
	service   *workload.Service // that was asked for; nil: none
	named     bool              // both ends are known as far as they will be
	plain     plain             // why there is no mutual TLS
	guarded   bool              // a tunnel proves both ends, and does not carry
	wasOpen   bool              // it has carried, or could
	toldAlive bool              // a record said so while it was open; guarded by live.mu
	warnings  []slog.Attr       // by which policies that are not enforced, and why, it would have been refused
}

// warn has the record say text in a field, in place of what it said there; empty: nothing.
func (r *record) warn(field, text string) {
	r.warnings = slices.DeleteFunc(r.warnings, func(a slog.Attr) bool { return a.Key == field })
	if text != "" {
		r.warnings = append(r.warnings, slog.String(field, text))
	}
}

// outcome is how a connection ended. It is no part of the record while that is open, so
// that idle connections are small.
type outcome struct {
	word           Word
	err            error // nil: word is OK
	at             time.Time
	policy         string // that refused it
	sent, received uint64
	omitted        uint64 // endings alike that have no access record
	sampled        uint64 // good endings of which one has an access record; 0: all have
}

// target is the address of the app that the connection is for.
func (r *record) target() netip.AddrPort {
	if r.hbone.IsValid() {
		return r.hbone
	}
	return r.dst.addr
}

// mutualTLS reports whether both ends prove themselves, by the tunnel that carries or by
// one beside it.
func (r *record) mutualTLS() bool { return r.path == pathTunnel || r.guarded }

// scopeAccess is the scope of access records, by which those are found among others.
const scopeAccess = "access"

// opened logs the beginning of a connection, for whoever debugs.
func (r *record) opened(log *slog.Logger, cluster string) {
	if log.Enabled(context.Background(), slog.LevelDebug) {
		log.LogAttrs(context.Background(), slog.LevelDebug, "connection opened", r.names(nil, cluster)...)
	}
}

// write logs the record. As Istio's ztunnel does, it tells apart what was
// turned away before it was understood.
func (r *record) write(log *slog.Logger, cluster string, e *outcome) {
	level, message := slog.LevelInfo, "connection complete"
	switch {
	case e.err != nil && !r.named:
		level, message = slog.LevelWarn, "connection failed"
	case e.err != nil && e.word != Reset:
		level = slog.LevelError
	}
	if !log.Enabled(context.Background(), level) {
		return
	}
	l := sheets.Get().(*line)
	l.attrs = r.end(r.names(l.attrs[:0], cluster), e)
	l.log(log, level, message)
}

// line is the fields of a record while it is written: a group without a name,
// so that they are not copied.
type line struct{ attrs []slog.Attr }

var sheets = sync.Pool{New: func() any { return new(line) }}

// log writes the line, which is over then. It is not by a method of the logger, which would
// look for the line of code that logs.
func (l *line) log(log *slog.Logger, level slog.Level, message string) {
	entry := slog.NewRecord(time.Now(), level, message, 0)
	entry.AddAttrs(slog.Attr{Value: slog.GroupValue(l.attrs...)})
	_ = log.Handler().Handle(context.Background(), entry) // there is nobody to tell
	clear(l.attrs)
	sheets.Put(l)
}

// progress is what a connection carried, and in which time.
func progress(sent, received uint64, age time.Duration) []slog.Attr {
	return []slog.Attr{
		slog.Uint64(fieldBytesSent, sent), slog.Uint64(fieldBytesRecv, received),
		slog.String(fieldDuration, age.Round(time.Millisecond).String()),
	}
}

// end appends what is known when the connection has ended.
func (r *record) end(attrs []slog.Attr, e *outcome) []slog.Attr {
	if r.named {
		attrs = append(attrs, progress(e.sent, e.received, e.at.Sub(r.start))...)
	}
	attrs = append(attrs, slog.String(fieldResult, string(e.word)), slog.String(fieldFlags, Words[e.word]))
	if e.policy != "" {
		attrs = append(attrs, slog.String(fieldPolicy, e.policy))
	}
	attrs = append(attrs, r.warnings...)
	if e.err != nil {
		attrs = append(attrs, slog.String(fieldError, e.err.Error()))
	}
	if e.omitted > 0 {
		attrs = append(attrs, slog.Uint64(fieldOmitted, e.omitted))
	}
	if e.sampled > 0 {
		attrs = append(attrs, slog.Uint64(fieldSampled, e.sampled))
	}
	return attrs
}

// names appends what is known of the two ends, whose pods are of that cluster.
func (r *record) names(attrs []slog.Attr, cluster string) []slog.Attr {
	src, dst := r.src.known(), r.dst.known()
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	addr := func(key string, value netip.AddrPort) {
		if value.IsValid() {
			attrs = append(attrs, slog.String(key, value.String()))
		}
	}
	text(fieldScope, scopeAccess)
	addr(fieldSrcAddr, r.src.addr)
	text(fieldSrcWorkload, src.Name)
	text(fieldSrcNamespace, src.Namespace)
	text(fieldSrcIdentity, r.src.identity)
	text(fieldSrcCluster, r.src.cluster(cluster))
	addr(fieldDstAddr, r.dst.addr)
	addr(fieldDstHBONEAddr, r.hbone)
	if r.service != nil {
		text(fieldDstService, r.service.Hostname())
	}
	text(fieldDstWorkload, dst.Name)
	text(fieldDstNamespace, dst.Namespace)
	text(fieldDstIdentity, r.dst.identity)
	text(fieldDstCluster, r.dst.cluster(cluster))
	text(fieldDirection, string(r.direction))
	text(fieldPath, r.path)
	return attrs
}

// describe fills in the time series that the connection counts in.
func (r *record) describe(f *metrics.Flow, cluster string, nodes *workload.Registry) {
	f.Reporter, f.MutualTLS = r.direction.reporter(), r.mutualTLS()
	r.src.describe(&f.Source, cluster, nodes)
	r.dst.describe(&f.Destination, cluster, nodes)
	if s := r.service; s != nil {
		f.Service = metrics.Service{Host: s.Hostname(), Namespace: s.Namespace, Name: s.Name}
	}
}

func (e *end) describe(peer *metrics.Peer, cluster string, nodes *workload.Registry) {
	w := e.known()
	*peer = metrics.Peer{
		Workload: w.Owner, Canonical: w.CanonicalName, Revision: w.CanonicalRevision, Namespace: w.Namespace,
		Principal: e.identity, App: w.CanonicalName, Version: w.CanonicalRevision, // as Istio's ztunnel
	}
	peer.Cluster = e.cluster(cluster)
	if w.Node != "" {
		where := nodes.Locality(w.Node)
		peer.Region, peer.Zone = where.Region, where.Zone
	}
}

// cluster is where a known pod is.
func (e *end) cluster(ours string) string {
	if e.known().UID == "" {
		return ""
	}
	return ours
}
