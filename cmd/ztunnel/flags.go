// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel"
	"github.com/culvert-mesh/culvert/ztunnel/otlp"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

const usage = `Usage: ztunnel -node-name NAME {-kubeconfig FILE | -workloads DIR -mesh-cidrs CIDRS}
               {-ca-address HOST:PORT -ca-root FILE -token-file FILE |
                -spire-agent-socket PATH -spire-admin-socket PATH} [flags]
       ztunnel uninstall [flags]
       ztunnel renew {-identities LIST | -all} [flags]

Carries the connections of this node's enrolled pods in mutual TLS.
Needs root, a cgroup2 hierarchy, a bpffs and a kernel 5.15 or newer.

A flag given twice counts once: the later replaces the earlier, lists too.
GOMEMLIMIT in the environment bounds its memory; a quarter of it is for apps and
peers that do not read. Without one that is a quarter of its cgroup's limit, or
256 MiB if that is less; in any case 16 MiB at least. While connections or tunnels
are opened without a pause, garbage may take a quarter of that more than usual, 64
MiB at most, to save CPU; not if GOGC is in the environment.

Flags:
`

// define names the flags and says which field each fills.
func define(flags *flag.FlagSet, cfg *ztunnel.Config) {
	program.Var(flags, &cfg.NodeName, "node-name", "", "`name` of this node, as spec.nodeName of its pods; required (env NODE_NAME)", program.Subdomain)
	program.Var(flags, &cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust `domain`", trustDomain)
	program.Var(flags, &cfg.Cluster, "cluster", "Kubernetes", "`name` of this cluster in metrics, log and tunnels", program.ClusterName)
	program.Var(flags, &cfg.RootNamespace, "root-namespace", "istio-system", "`namespace` of mesh-wide policy", program.Label)
	program.Var(flags, &cfg.MeshCIDRs, "mesh-cidrs", "", "comma-separated `CIDRs` of pods and services, beside those that Nodes and ServiceCIDRs tell: an address in them that is unknown is refused; required with -workloads", program.List(program.Prefix))
	program.Var(flags, &cfg.Workloads, "workloads", "", "`directory` of Kubernetes YAML to watch; this or -kubeconfig is required", program.Path)
	program.Var(flags, &cfg.Kubeconfig, "kubeconfig", "", "`file` that leads to the Kubernetes API server to watch, or in-cluster: by the pod's own ServiceAccount", kubeconfig)
	program.Var(flags, &cfg.ForeignWorkloads, "foreign-workloads", "", "YAML `file` of workloads of other trust domains, by address and SPIFFE ID, that pods may dial where the CA is federated with those domains; read again when it changes (default none)", program.Path)
	program.Switch(flags, &cfg.Untaint, "untaint", "take the taint "+source.NotReadyTaint+" off this node's Node once the pod of -own-pod is ready; needs -kubeconfig, and the right to patch Nodes")
	program.Switch(flags, &cfg.NoIstioLabels, "ignore-istio-labels", "do not enroll by istio.io/dataplane-mode")
	program.Var(flags, &cfg.CAAddress, "ca-address", "", "`host:port` of culvert-identity; required without -spire-agent-socket", program.Dial)
	program.Var(flags, &cfg.CARoot, "ca-root", "", "PEM `file` with the root of the CA's own certificate; required with -ca-address", program.Path)
	program.Var(flags, &cfg.CAServerName, "ca-server-name", "", "DNS `name` in the CA's certificate (default the host of -ca-address)", program.ServerName)
	program.Var(flags, &cfg.TokenFile, "token-file", "", "`file` with the bearer token for the CA, read again for each call; required with -ca-address", program.Path)
	program.Var(flags, &cfg.SPIREAgentSocket, "spire-agent-socket", "", "`path` of the socket of the Workload API of SPIRE's agent, which gives certificates in place of a CA (default none)", program.Path)
	program.Var(flags, &cfg.SPIREAdminSocket, "spire-admin-socket", "", "`path` of the socket of the Delegated Identity API of SPIRE's agent; required with -spire-agent-socket", program.Path)
	program.Var(flags, &cfg.TTL, "ttl", "", "`lifetime` to ask for certificates, 25s to 24h: the CA gives no more than that (default what the CA gives)", program.Duration(identity.MinTTL, identity.MaxTTL))
	program.Var(flags, &cfg.Keys, "key-kind", "p256", "`kind` of the keys of certificates: p256, or mldsa65, which all nodes and the CA must know", identity.ParseKeyKind)
	program.Var(flags, &cfg.RootFile, "root-file", "", "PEM `file` of the mesh's roots, read again when it changes: they vouch for peers as long as the CA has not said which do (default none)", program.Path)
	program.Var(flags, &cfg.ClockSkew, "clock-skew", "0s", "how far a clock of the mesh may be off, a `time` of 0s to 15m, the same for all nodes and the CA: a certificate is taken for that much longer", program.Duration(0, identity.MaxClockSkew))
	program.Var(flags, &cfg.WorkloadAPISocket, "workload-api-socket", "", "`path` of a socket on which pods of the mesh get their own certificate and its key by SPIFFE's Workload API; its directory is for them to mount; needs Linux 6.5 (default none)", program.Path)
	program.Var(flags, &cfg.MaxTrustAge, "max-trust-age", "0s", "how `long` the CA may say neither which roots count nor whom it denies until this node refuses new tunnels, 1m to 24h, or 0s: for ever; for a CA with a deny set (-deny or -deny-configmap of culvert-identity)", program.Duration(0, 24*time.Hour))
	program.Var(flags, &cfg.AtSource, "id-at-source", "warn", "what becomes of a connection whose identity is proved, but comes from an address that the registry does not have for it, a `mode`: warn, enforce or off", atSource)
	program.Var(flags, &cfg.AtSourceExempt, "id-at-source-exempt", "", "comma-separated `CIDRs` of peers that may show any identity: gateways, processes outside Kubernetes, networks that translate addresses (default none)", program.List(program.Prefix))
	program.Var(flags, &cfg.StdTLSRecords, "tls-records", "", "`maker` of the tunnels' TLS records: own, many a syscall, or std, crypto/tls (default own, in FIPS mode std)", second("own", "std"))
	program.Var(flags, &cfg.SameNodeTunnel, "same-node", "local", "`path` between two pods of this node: local, from socket to socket beside a tunnel, or tunnel, in it", second("local", "tunnel"))
	places(flags, cfg)
	program.Var(flags, &cfg.Cgroup, "cgroup", "/sys/fs/cgroup", "cgroup2 `directory` above kubelet, ztunnel and pods", program.Path)
	program.Var(flags, &cfg.KubeletCgroup, "kubelet-cgroup", "", "cgroup2 `directory` of the kubelet itself, not one above it: its probes reach the pods directly; may come later or be replaced (default none: probes are treated like all others)", program.Path)
	program.Var(flags, &cfg.HostNetns, "host-netns", "/proc/1/ns/net", "`path` of the node's network namespace", program.Path)
	program.Var(flags, &cfg.ExcludeCIDRs, "exclude-cidrs", "", "comma-separated destination `CIDRs` that are never steered (default none)", program.List(program.Steerable))
	program.Var(flags, &cfg.StandIns, "stand-in-cidrs", "", "comma-separated `CIDRs`, one of a family, of addresses that nobody has: inside a pod they stand for the destinations of its connections (default 240.0.0.0/8,100:0:0:1::/64)", program.List(program.Prefix))
	program.Var(flags, &cfg.ExcludePorts, "exclude-ports", "", "comma-separated destination `ports` that are never steered (default none)", program.List(program.Port))
	program.Var(flags, &cfg.OwnPod, "own-pod", "", "`namespace/name` of ztunnel's own pod, which may start while ztunnel is away, and bears what it does with policies", program.Namespaced)
	program.Var(flags, &cfg.AdminAddress, "admin-address", "127.0.0.1:15000", "loopback `address` for GET /config_dump, /events and /logging", program.Loopback)
	program.Var(flags, &cfg.MetricsAddress, "metrics-address", ":15020", "`address` for /metrics", program.Listen)
	program.Var(flags, &cfg.ReadyAddress, "ready-address", ":15021", "`address` for /healthz/ready", program.Listen)
	program.Var(flags, &cfg.AccessSample, "access-sample", "1", "of how `many` connections that end well one has an access record, 1 to 1000000: what fails always has one", sample)
	program.Var(flags, &cfg.AccessInterval, "access-interval", "0s", "how often a connection that is open has a record, a `time` of 10s to 24h, or 0s: never", accessInterval)
	program.Var(flags, &cfg.OTLPEndpoint, "otlp-endpoint", "", "`URL` of a receiver of OpenTelemetry's logs, as http://HOST:4318 or grpc://HOST:4317, with TLS https or grpcs: it gets the access records, too (default none)", otlp.Endpoint)
	program.Var(flags, &cfg.OTLPRootFile, "otlp-root", "", "PEM `file` with the root of the receiver's certificate (default the system's roots)", program.Path)
	program.Var(flags, &cfg.Drain, "drain", "5s", "how long open connections may end by themselves at SIGTERM, a `time` of 1ms to 24h", program.Duration(time.Millisecond, 24*time.Hour))
}

// places are the flags that uninstall shares.
func places(flags *flag.FlagSet, cfg *ztunnel.Config) {
	program.Var(flags, &cfg.BPFFS, "bpffs", "/sys/fs/bpf/culvert", "`directory` on a bpffs for this ztunnel's maps and links", program.Path)
	program.Var(flags, &cfg.StateDir, "state-dir", "/run/culvert", "root-only `directory` for sockets, the plugin's snapshot and sandbox records", program.Path)
}

func trustDomain(s string) (string, error) {
	td, err := program.TrustDomain(s)
	return td.Name(), err
}

func kubeconfig(s string) (string, error) {
	if s == kube.InCluster {
		return s, nil
	}
	return program.Path(s)
}

// second reports which of two words is given.
func second(one, two string) func(string) (bool, error) {
	return func(s string) (bool, error) {
		word, err := program.OneOf(one, two)(s)
		return word == two, err
	}
}

func sample(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < 1 || n > 1_000_000 {
		return 0, errors.New("want 1 to 1000000")
	}
	return n, nil
}

// accessInterval reads how often open connections have a record. More often would be a log
// of its own.
func accessInterval(s string) (time.Duration, error) {
	d, err := program.Duration(0, 24*time.Hour)(s)
	if err == nil && d != 0 && d < 10*time.Second {
		return 0, errors.New("want 10s to 24h, or 0s: never")
	}
	return d, err
}

func atSource(s string) (proxy.AtSource, error) {
	for _, mode := range []proxy.AtSource{proxy.AtSourceWarn, proxy.AtSourceEnforce, proxy.AtSourceOff} {
		if s == mode.String() {
			return mode, nil
		}
	}
	return 0, errors.New("want warn, enforce or off")
}

// complete takes from the environment what Kubernetes injects, and says what is
// wrong with the whole.
func complete(cfg *ztunnel.Config) error {
	if name := os.Getenv("NODE_NAME"); cfg.NodeName == "" && name != "" {
		var err error
		if cfg.NodeName, err = program.Subdomain(name); err != nil {
			return fmt.Errorf("invalid value %q of NODE_NAME in the environment: %w", name, err)
		}
	}
	return errors.Join(cfg.Validate(), program.Apart(
		program.Listener{Flag: "metrics-address", Address: cfg.MetricsAddress},
		program.Listener{Flag: "ready-address", Address: cfg.ReadyAddress},
		program.Listener{Flag: "admin-address", Address: cfg.AdminAddress},
	))
}
