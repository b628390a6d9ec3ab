// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
	"github.com/culvert-mesh/culvert/ztunnel/otlp"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// Config says everything that one ztunnel needs to know. cmd/ztunnel fills it
// from flags.
type Config struct {
	NodeName      string         // required; as spec.nodeName of the node's pods
	TrustDomain   string         // default cluster.local
	Cluster       string         // its name in metrics, records and the baggage of tunnels; default Kubernetes
	RootNamespace string         // holds mesh-wide policy; default istio-system
	MeshCIDRs     []netip.Prefix // addresses that must resolve; required with Workloads
	Workloads     string         // directory of Kubernetes YAML; either this or Kubeconfig is required
	Kubeconfig    string         // of the API server, a file or kube.InCluster
	Untaint       bool           // take source.NotReadyTaint off the Node once OwnPod is Ready; needs Kubeconfig; default false
	NoIstioLabels bool           // ignore istio.io/dataplane-mode; default false

	// ForeignWorkloads is a YAML file of the workloads of other trust domains that pods may
	// dial; see source/foreign. default none
	ForeignWorkloads string

	CAAddress    string        // host:port of culvert-identity or istiod; required, but with SPIRE
	CARoot       string        // PEM file that the CA's own certificate is verified with; required with CAAddress
	CAServerName string        // DNS name expected in the CA's certificate; default the host of CAAddress
	TokenFile    string        // bearer token shown to the CA, read again for each call; required with CAAddress
	TTL          time.Duration // lifetime asked for SVIDs; default what the CA gives

	Keys identity.KeyKind // that SVIDs are asked for; default identity.P256

	SPIREAgentSocket string // of SPIRE's Workload API, whose agent takes the CA's place; default none
	SPIREAdminSocket string // of its Delegated Identity API; required with SPIREAgentSocket

	RootFile  string        // PEM of roots that vouch for peers while the CA has not said which do; default none
	ClockSkew time.Duration // how far a clock of the mesh may be off, at most identity.MaxClockSkew; default 0

	WorkloadAPISocket string        // of the Workload API that pods are served; default none
	MaxTrustAge       time.Duration // for how long the CA may say neither which roots count nor whom it denies until new tunnels are refused; default 0: for ever

	AtSource       proxy.AtSource // what becomes of a tunnel's connection whose identity is not at its address; default warn
	AtSourceExempt []netip.Prefix // addresses from which any identity may come; default none

	SameNodeTunnel bool // carry connections between pods of this node in tunnels; default false: from socket to socket
	StdTLSRecords  bool // leave TLS records to crypto/tls; default false: hbone/record, but in FIPS mode

	BPFFS         string         // directory under a bpffs for maps and links; required
	Cgroup        string         // cgroup2 directory above kubelet, ztunnel and pods; required
	KubeletCgroup string         // cgroup2 directory of the kubelet itself, followed by path; default none: probes are steered
	HostNetns     string         // the node's network namespace; default /proc/1/ns/net
	ExcludeCIDRs  []netip.Prefix // destinations never steered; default none
	StandIns      []netip.Prefix // addresses that stand for destinations in pods; default 240.0.0.0/8, 100:0:0:1::/64
	ExcludePorts  []uint16       // destination ports never steered; default none

	StateDir       string        // root-only directory: sockets, snapshot, sandboxes; required
	OwnPod         string        // namespace/name of ztunnel's own pod, which may start without it, and bears a policy.Claim; default none
	AdminAddress   string        // default 127.0.0.1:15000
	MetricsAddress string        // default :15020
	ReadyAddress   string        // default :15021
	Drain          time.Duration // how long open connections may end by themselves at shutdown; default 5 s

	AccessSample   uint64        // of how many connections that end well one has an access record; default 1
	AccessInterval time.Duration // how often connections that are open have a record; default 0: never
	OTLPEndpoint   string        // URL of a receiver of OpenTelemetry's logs, which gets the access records, too; default none
	OTLPRootFile   string        // PEM of roots that the receiver's certificate is verified by; default those of the system

	Log        *slog.Logger             `json:"-"` // default slog.Default()
	LogDropped func() map[string]uint64 `json:"-"` // records that Log could not take, by level; default none
	Level      *slog.LevelVar           // level of Log, that the admin socket may change; default none
	levels     *loglevel.Levels         // of Log's scopes; set by withDefaults
}

// leastTrustAge lets the CA start again before nodes refuse new tunnels.
const leastTrustAge = time.Minute

// MarshalJSON is for /config_dump: durations are text there, since a number
// would not say its unit.
func (c Config) MarshalJSON() ([]byte, error) {
	type plain Config
	ttl := "" // none is asked for
	if c.TTL > 0 {
		ttl = c.TTL.String()
	}
	return json.Marshal(struct {
		plain
		TTL, ClockSkew, Drain, MaxTrustAge, AccessInterval string
	}{plain(c), ttl, c.ClockSkew.String(), c.Drain.String(), c.MaxTrustAge.String(), c.AccessInterval.String()})
}

// withDefaults returns c with the defaults named in its comments.
func (c Config) withDefaults() Config {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.TrustDomain, "cluster.local")
	set(&c.Cluster, "Kubernetes")
	set(&c.RootNamespace, "istio-system")
	set(&c.HostNetns, "/proc/1/ns/net")
	set(&c.AdminAddress, "127.0.0.1:15000")
	set(&c.MetricsAddress, ":15020")
	set(&c.ReadyAddress, ":15021")
	if c.Drain == 0 {
		c.Drain = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.LogDropped == nil {
		c.LogDropped = func() map[string]uint64 { return nil }
	}
	if c.Level == nil {
		c.Level = new(slog.LevelVar)
	}
	c.levels = loglevel.New(c.Log, c.Level)
	c.Log = c.levels.Logger(loglevel.Ztunnel)
	return c
}

// Validate returns every problem of c at once, each naming its field and the
// flag of cmd/ztunnel that fills it.
func (c Config) Validate() error {
	var problems []error
	for _, required := range []struct{ field, flag, value string }{
		{"node name", "node-name", c.NodeName}, {"bpffs directory", "bpffs", c.BPFFS},
		{"cgroup directory", "cgroup", c.Cgroup}, {"state directory", "state-dir", c.StateDir},
	} {
		if required.value == "" {
			problems = append(problems, fmt.Errorf("%s is required (-%s)", required.field, required.flag))
		}
	}
	problems = append(problems, c.oneIssuer(), c.oneSource())
	if standIns, err := redirect.StandIns(c.StandIns); err != nil {
		problems = append(problems, fmt.Errorf("%w (-stand-in-cidrs)", err))
	} else if err := redirect.DisjointStandIns(standIns, c.ExcludeCIDRs, "excluded CIDRs (-exclude-cidrs)"); err != nil {
		problems = append(problems, fmt.Errorf("%w (-stand-in-cidrs)", err))
	}
	problems = append(problems, c.meshes(c.MeshCIDRs))
	if c.TrustDomain != "" {
		if _, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil {
			problems = append(problems, fmt.Errorf("trust domain %q: %v", c.TrustDomain, err))
		}
	}
	if c.OwnPod != "" && strings.Count(c.OwnPod, "/") != 1 {
		problems = append(problems, fmt.Errorf("own pod %q: want namespace/name", c.OwnPod))
	}
	if c.TTL != 0 && (c.TTL < identity.MinTTL || c.TTL > identity.MaxTTL) {
		problems = append(problems, fmt.Errorf("lifetime of certificates %v: want %v to %v (-ttl)", c.TTL, identity.MinTTL, identity.MaxTTL))
	}
	if c.ClockSkew < 0 || c.ClockSkew > identity.MaxClockSkew {
		problems = append(problems, fmt.Errorf("clock skew %v: want 0 to %v (-clock-skew)", c.ClockSkew, identity.MaxClockSkew))
	}
	if c.MaxTrustAge != 0 && c.SPIREAgentSocket != "" {
		problems = append(problems, errors.New("SPIRE does not say whom it denies: -max-trust-age is for a CA"))
	}
	if c.MaxTrustAge != 0 && c.MaxTrustAge < leastTrustAge {
		problems = append(problems, fmt.Errorf("age of what the CA said %v: want 0s for any, or %v at least (-max-trust-age)", c.MaxTrustAge, leastTrustAge))
	}
	if c.OTLPRootFile != "" && !otlp.Secure(c.OTLPEndpoint) {
		problems = append(problems, errors.New("roots for a receiver that is not asked by TLS: -otlp-root needs an -otlp-endpoint of https or grpcs"))
	}
	if c.Drain < 0 {
		problems = append(problems, fmt.Errorf("drain time %v is negative (-drain)", c.Drain))
	}
	return errors.Join(problems...)
}

// oneSource wants one place where workloads come from. A directory does not say
// which addresses are of pods.
func (c Config) oneSource() error {
	switch {
	case c.Workloads == "" && c.Kubeconfig == "":
		return errors.New("a workloads directory (-workloads) or an API server (-kubeconfig) is required")
	case c.Workloads != "" && c.Kubeconfig != "":
		return errors.New("workloads come from a directory (-workloads) or from an API server (-kubeconfig), not from both")
	case c.Untaint && (c.Kubeconfig == "" || c.OwnPod == ""):
		return errors.New("the node's taint goes when ztunnel's own pod (-own-pod) is ready, of which the API server tells (-kubeconfig): -untaint needs both")
	case c.Workloads != "" && len(c.MeshCIDRs) == 0:
		return errors.New("mesh CIDRs are required with a workloads directory: which addresses must resolve (-mesh-cidrs)")
	}
	return nil
}

// meshes says why these cannot be the CIDRs of the mesh.
func (c Config) meshes(cidrs []netip.Prefix) error {
	problems := c.excludesMesh(cidrs)
	if standIns, err := redirect.StandIns(c.StandIns); err == nil {
		if err := redirect.DisjointStandIns(standIns, cidrs, "mesh CIDRs (-mesh-cidrs)"); err != nil {
			problems = append(problems, fmt.Errorf("%w (-stand-in-cidrs)", err))
		}
	}
	return errors.Join(problems...)
}

// excludesMesh finds exclusions that, alone or together, would let all traffic
// to a part of the mesh leave in plaintext. Single addresses in the mesh may be
// excluded.
func (c Config) excludesMesh(cidrs []netip.Prefix) (problems []error) {
	for _, mesh := range cidrs {
		by := overlapping(c.ExcludeCIDRs, mesh)
		if !cover(by, mesh) {
			continue
		}
		which := fmt.Sprintf("excluded CIDR %v holds", by[0])
		if len(by) > 1 {
			which = fmt.Sprintf("the %d excluded CIDRs from %v to %v together hold", len(by), by[0], by[len(by)-1])
		}
		problems = append(problems, fmt.Errorf("%s all of %v, which is of the mesh: its traffic would be in plaintext (-exclude-cidrs, -mesh-cidrs)", which, mesh))
	}
	return problems
}

// cover reports whether every address of p is in one of the prefixes. It halves
// p until one of them holds a half, or none is in it: at most 128 times for each.
func cover(prefixes []netip.Prefix, p netip.Prefix) bool {
	inside := overlapping(prefixes, p)
	if len(inside) == 0 {
		return false
	}
	if slices.ContainsFunc(inside, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() }) {
		return true
	}
	low, high := halves(p)
	return cover(inside, low) && cover(inside, high)
}

// overlapping returns them in order.
func overlapping(prefixes []netip.Prefix, p netip.Prefix) (inside []netip.Prefix) {
	for _, q := range prefixes {
		if q.Overlaps(p) {
			inside = append(inside, q)
		}
	}
	slices.SortFunc(inside, netip.Prefix.Compare)
	return inside
}

// halves splits a prefix that holds more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	upper := p.Masked().Addr().AsSlice()
	upper[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(upper)
	return netip.PrefixFrom(p.Masked().Addr(), p.Bits()+1), netip.PrefixFrom(addr, p.Bits()+1)
}

// source is where workloads come from; state is a directory for its last good state.
func (c Config) source(td spiffeid.TrustDomain, state string, onError func(error)) (source.Source, error) {
	if c.Kubeconfig == "" {
		return file.New(c.Workloads, file.Options{
			TrustDomain: td, RootNamespace: c.RootNamespace, IgnoreIstioLabels: c.NoIstioLabels, Log: c.levels.Logger(loglevel.Source), OnError: onError,
		}), nil
	}
	objects, err := kube.New(kube.Options{
		Kubeconfig: c.Kubeconfig, Build: source.Options{TrustDomain: td, RootNamespace: c.RootNamespace, IgnoreIstioLabels: c.NoIstioLabels},
		MeshCIDRs: c.MeshCIDRs, Node: c.NodeName, State: filepath.Join(state, workloadsFile), Log: c.levels.Logger(loglevel.Source), OnError: onError,
	})
	if err != nil {
		return nil, fmt.Errorf("-kubeconfig: %w", err)
	}
	return objects, nil
}

// origins is how identities are compared with addresses, by objects.
func (c Config) origins(objects source.Source) proxy.Origins {
	return proxy.Origins{Mode: c.AtSource, Exempt: c.AtSourceExempt, Current: func() bool { return !objects.Stats().Old }}
}

// What ztunnel makes in the state directory, and Uninstall takes away.
const (
	enrollSocket  = "enroll.sock"
	adminSocket   = "admin.sock"
	snapshotFile  = "snapshot.json"
	bundleFile    = "bundle"       // of the CA
	spireFile     = "bundle-spire" // of SPIRE: the generations of one say nothing of the other's
	denyFile      = "denied"
	workloadsFile = "workloads"
	foreignFile   = "foreign-workloads"
	sandboxesDir  = "sandboxes"
)

func (c Config) enrollSocket() string { return filepath.Join(c.StateDir, enrollSocket) }
func (c Config) adminSocket() string  { return filepath.Join(c.StateDir, adminSocket) }
