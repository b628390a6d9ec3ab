// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// events are counted when they happen.
type events struct {
	repairs          *prometheus.CounterVec
	foreignProbes    prometheus.Counter
	addressesRefused *prometheus.CounterVec
	devicesRefused   prometheus.Counter
	sourceErrors     prometheus.Counter
	generation       prometheus.Gauge
	applied          prometheus.Gauge
}

func (e *events) init(r *prometheus.Registry) {
	e.repairs = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "culvert_repairs_total",
		Help: "What another hand removed and ztunnel restored: BPF links, routing, parts of the state directory. Anything but zero is an alarm.",
	}, []string{"what"})
	e.addressesRefused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "culvert_pod_addresses_refused_total",
		Help: "Addresses of pods that are not steered, so that connections by them are refused: another pod's, or beyond the limit of one pod.",
	}, []string{"reason"})
	e.devicesRefused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "culvert_pod_devices_refused_total",
		Help: "Network devices of pods beyond those that are steered, so that connections of sockets bound to a device are refused.",
	})
	e.foreignProbes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "culvert_foreign_probes_total",
		Help: "Probes of pods of this node that name another host, where they are not exempt from policy.",
	})
	e.sourceErrors = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "culvert_source_errors_total",
		Help: "States of workloads and policies that could not be read; the last good one stays in force.",
	})
	e.generation = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "culvert_source_generation",
		Help: "Version of the workloads and policies in force.",
	})
	e.applied = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "culvert_source_applied_timestamp_seconds",
		Help: "When the workloads and policies in force were applied.",
	})
	r.MustRegister(e.repairs, e.foreignProbes, e.addressesRefused, e.devicesRefused, e.sourceErrors, e.generation, e.applied)
}

// Repaired counts something that another hand removed and ztunnel restored. what
// is its kind, of which there are few: it names no pod.
func (m *Metrics) Repaired(what string) {
	m.events.repairs.WithLabelValues(known(what)).Inc()
}

// ForeignProbe counts a probe that names another host.
func (m *Metrics) ForeignProbe() { m.events.foreignProbes.Inc() }

// AddressesRefused counts n addresses of a pod that are not steered.
func (m *Metrics) AddressesRefused(reason string, n int) {
	m.events.addressesRefused.WithLabelValues(known(reason)).Add(float64(n))
}

// DevicesRefused counts n devices of a pod beyond those that are steered.
func (m *Metrics) DevicesRefused(n int) { m.events.devicesRefused.Add(float64(n)) }

// SourceError counts a state that the source could not read.
func (m *Metrics) SourceError() { m.events.sourceErrors.Inc() }

// SourceApplied says which version of workloads and policies is in force.
func (m *Metrics) SourceApplied(version uint64) {
	m.events.generation.Set(float64(version))
	m.events.applied.SetToCurrentTime()
}

// BPF publishes the kernel side's counters by reason.
func (m *Metrics) BPF(f func() map[string]uint64) {
	m.CounterFunc("culvert_bpf_events_total", "What the BPF programs steered, passed and refused, by reason.", "reason", f)
}

// LogDropped publishes how many records the log could not take, by level.
func (m *Metrics) LogDropped(f func() map[string]uint64) {
	m.CounterFunc("culvert_log_records_dropped_total", "Log records that were dropped, as the log was not read or could not be written.", "level", f)
}

// AccessExported publishes how many access records a receiver of OpenTelemetry's logs got,
// and were dropped and why.
func (m *Metrics) AccessExported(f func() map[string]uint64) {
	m.CounterFunc("culvert_otlp_records_total", "Access records for a receiver of OpenTelemetry's logs: sent, or dropped and why.", "result", f)
}

// Reports publishes how many Events and statuses were told to the API server, by what
// became of them.
func (m *Metrics) Reports(f func() (events, statuses map[string]uint64)) {
	m.CounterFunc("culvert_kubernetes_events_total", "Events of this node and its pods: written, or dropped by rate or because the API server did not take them.", "result",
		func() map[string]uint64 { events, _ := f(); return events })
	m.CounterFunc("culvert_pod_status_writes_total", "Writes of the annotation culvert.dev/status that the API server took or not.", "result",
		func() map[string]uint64 { _, statuses := f(); return statuses })
}

// Budget publishes what the connections of all pods may use of this process, and
// use.
func (m *Metrics) Budget(f func() (size, used map[string]float64)) {
	m.GaugeFunc("culvert_budget_size", "What the connections of all pods may use, by resource.", "resource",
		func() map[string]float64 { size, _ := f(); return size })
	m.GaugeFunc("culvert_budget_used", "What the connections of all pods use, by resource.", "resource",
		func() map[string]float64 { _, used := f(); return used })
}

// Kubelet publishes whether the kubelet's cgroup is found, by f, which is asked
// at each scrape.
func (m *Metrics) Kubelet(f func() bool) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "culvert_kubelet_cgroup_found",
		Help: "Whether the cgroup of -kubelet-cgroup is there: 0 while probes are treated like all other connections.",
	}, func() float64 {
		if f() {
			return 1
		}
		return 0
	}))
}

// Enrollment says how many pods of the node are how far.
type Enrollment struct {
	Intended int // labels say they belong in the mesh
	Enrolled int // steered and listening, as this process believes
	Verified int // the same, as the kernel last confirmed

	Certified   int // enrolled, with a certificate that is renewed in time
	Forwarding  int // of the enrolled, those that forward to another netns
	Unsteerable int // labels say they belong in the mesh, and they cannot be in it
	Unprotected int // in the mesh, with processes for which the programs do not run
	Unexplained int // netns that are steered, and nothing says whose they are
}

// pods are the workload_manager families of Istio's ztunnel.
type pods struct {
	started, stopped prometheus.Counter
}

func (p *pods) init(r *prometheus.Registry) {
	p.started = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "workload_manager_proxies_started_total", Help: "Pods that this process began to proxy.",
	})
	p.stopped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "workload_manager_proxies_stopped_total", Help: "Pods that this process ceased to proxy.",
	})
	r.MustRegister(p.started, p.stopped)
}

// PodStarted counts a pod sandbox that is proxied from now on.
func (m *Metrics) PodStarted() { m.pods.started.Inc() }

// PodStopped counts a pod sandbox that is proxied no more.
func (m *Metrics) PodStopped() { m.pods.stopped.Inc() }

// Pods publishes the state of enrollment, by f, which is asked at each scrape.
func (m *Metrics) Pods(f func() Enrollment) {
	m.GaugeFunc("culvert_enrolled_pods",
		"Pods of this node by how far they got into the mesh; all are equal when all is well.", "state",
		func() map[string]float64 {
			e := f()
			return map[string]float64{
				"intended": float64(e.Intended), "enrolled": float64(e.Enrolled), "verified": float64(e.Verified),
				"certified": float64(e.Certified),
			}
		})
	gauge := func(name, help string, read func(Enrollment) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return float64(read(f())) })
	}
	m.registry.MustRegister(
		gauge("workload_manager_active_proxy_count", "Pods that are proxied.",
			func(e Enrollment) int { return e.Enrolled }),
		gauge("workload_manager_pending_proxy_count", "Pods that should be proxied and are not.",
			func(e Enrollment) int { return max(0, e.Intended-e.Enrolled) }),
		gauge("culvert_forwarding_pods", "Enrolled pods that forward to a network namespace behind them, which has no identity.",
			func(e Enrollment) int { return e.Forwarding }),
		gauge("culvert_unsteerable_pods", "Pods whose labels say they belong in the mesh and that cannot be in it: hostNetwork, a sidecar, a runtime with a network stack of its own.",
			func(e Enrollment) int { return e.Unsteerable }),
		gauge("culvert_unprotected_pods",
			"Pods in the mesh with processes outside -cgroup, which connect in plaintext. They do not count as enrolled. Anything but zero is an alarm.",
			func(e Enrollment) int { return e.Unprotected }),
		gauge("culvert_unexplained_netns",
			"Network namespaces that are steered, and so refused, without a record that says whose they are. Anything but zero is an alarm.",
			func(e Enrollment) int { return e.Unexplained }))
}
