// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel"
)

const usage = `Usage: ztunnel -node-name NAME -mesh-cidrs CIDRS -workloads DIR
               -ca-address HOST:PORT -ca-root FILE -token-file FILE [flags]

Carries the connections of this node's enrolled pods in mutual TLS.
Needs root, a cgroup2 hierarchy, a bpffs and a kernel 5.15 or newer.

Flags:
`

// define names the flags and says which field each fills.
func define(flags *flag.FlagSet, cfg *ztunnel.Config) {
	flags.StringVar(&cfg.NodeName, "node-name", os.Getenv("NODE_NAME"), "`name` of this node, as spec.nodeName of its pods; required (env NODE_NAME)")
	flags.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust `domain`")
	flags.StringVar(&cfg.RootNamespace, "root-namespace", "istio-system", "`namespace` of mesh-wide policy")
	flags.Func("mesh-cidrs", "comma-separated `CIDRs` of pods and services: an address in them that is unknown is refused; required", list(&cfg.MeshCIDRs, netip.ParsePrefix))
	flags.StringVar(&cfg.Workloads, "workloads", "", "`directory` of Kubernetes YAML to watch; required")
	flags.BoolVar(&cfg.NoIstioLabels, "ignore-istio-labels", false, "do not enroll by istio.io/dataplane-mode")
	flags.StringVar(&cfg.CAAddress, "ca-address", "", "`host:port` of culvert-identity; required")
	flags.StringVar(&cfg.CARoot, "ca-root", "", "PEM `file` with the root of the CA's own certificate; required")
	flags.StringVar(&cfg.CAServerName, "ca-server-name", "", "DNS `name` in the CA's certificate (default the host of -ca-address)")
	flags.StringVar(&cfg.TokenFile, "token-file", "", "`file` with the bearer token for the CA, read again for each call; required")
	flags.DurationVar(&cfg.TTL, "ttl", 0, "lifetime to ask for certificates (default 1h)")
	flags.Func("tls-records", "`maker` of the tunnels' TLS records: own, many a syscall, or std, crypto/tls (default own, in FIPS mode std)", func(s string) error {
		if s != "own" && s != "std" {
			return fmt.Errorf("%q is neither own nor std", s)
		}
		cfg.StdTLSRecords = s == "std"
		return nil
	})
	flags.Func("same-node", "`path` between two pods of this node: local, from socket to socket beside a tunnel, or tunnel, in it (default local)", func(s string) error {
		if s != "local" && s != "tunnel" {
			return fmt.Errorf("%q is neither local nor tunnel", s)
		}
		cfg.SameNodeTunnel = s == "tunnel"
		return nil
	})
	flags.StringVar(&cfg.BPFFS, "bpffs", "/sys/fs/bpf/culvert", "`directory` on a bpffs for this ztunnel's maps and links")
	flags.StringVar(&cfg.Cgroup, "cgroup", "/sys/fs/cgroup", "cgroup2 `directory` above kubelet, ztunnel and pods")
	flags.StringVar(&cfg.KubeletCgroup, "kubelet-cgroup", "", "cgroup2 `directory` of the kubelet itself, not one above it: its probes reach the pods directly; may come later or be replaced (default none: probes are treated like all others)")
	flags.StringVar(&cfg.HostNetns, "host-netns", "/proc/1/ns/net", "`path` of the node's network namespace")
	flags.Func("exclude-cidrs", "comma-separated destination `CIDRs` that are never steered", list(&cfg.ExcludeCIDRs, netip.ParsePrefix))
	flags.Func("stand-in-cidrs", "comma-separated `CIDRs`, one of a family, of addresses that nobody has: inside a pod they stand for the destinations of its connections (default 240.0.0.0/8,100:0:0:1::/64)", list(&cfg.StandIns, netip.ParsePrefix))
	flags.Func("exclude-ports", "comma-separated destination `ports` that are never steered", list(&cfg.ExcludePorts, parsePort))
	flags.StringVar(&cfg.StateDir, "state-dir", "/run/culvert", "root-only `directory` for sockets, the plugin's snapshot and sandbox records")
	flags.StringVar(&cfg.OwnPod, "own-pod", "", "`namespace/name` of ztunnel's own pod, which may start while ztunnel is away")
	flags.StringVar(&cfg.AdminAddress, "admin-address", "127.0.0.1:15000", "loopback `address` for GET /config_dump")
	flags.StringVar(&cfg.MetricsAddress, "metrics-address", ":15020", "`address` for /metrics")
	flags.StringVar(&cfg.ReadyAddress, "ready-address", ":15021", "`address` for /healthz/ready")
	flags.DurationVar(&cfg.Drain, "drain", 0, "how long open connections may end by themselves at SIGTERM (default 5s)")
	flags.TextVar(cfg.Level, "log-level", new(slog.LevelVar), "debug, info, warn or error")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
}

func list[T any](dst *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		for field := range strings.SplitSeq(s, ",") {
			v, err := parse(strings.TrimSpace(field))
			if err != nil {
				return err
			}
			*dst = append(*dst, v)
		}
		return nil
	}
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port", s)
	}
	return uint16(n), nil
}
