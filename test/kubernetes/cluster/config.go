// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
)

// Config says which cluster.
type Config struct {
	// Name tells clusters of one machine apart. Required: lower-case letters, digits
	// and hyphens.
	Name string

	// Cgroups is what a node's /sys/fs/cgroup looks like: "v1" is the machine's own
	// hierarchies, with cgroup2 at /sys/fs/cgroup/unified; limits hold. "v2" is cgroup2
	// itself, as on current distributions; where the machine's cgroup2 lacks the
	// controllers, limits do not hold. Default: v1 if the machine has its hierarchies.
	Cgroups string

	// Site is which addresses it has, from 0 to 9. Clusters of different sites can be joined:
	// Join.
	Site int

	// Binaries is the directory that Build returned. Required by Up. While the cluster
	// runs, its lock, as flock(2), is shared.
	Binaries string

	// Images are the paths of OCI archives that every node gets.
	Images []string
}

var validName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// validate returns all that is wrong with c.
func (c Config) validate() error {
	var errs []error
	if !validName.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("name %q: want 1 to 32 lower-case letters, digits and hyphens", c.Name))
	}
	if c.Cgroups != "v1" && c.Cgroups != "v2" {
		errs = append(errs, fmt.Errorf("cgroups %q: want v1 or v2", c.Cgroups))
	}
	if c.Site < 0 || c.Site > 9 {
		errs = append(errs, fmt.Errorf("site %d: want 0 to 9", c.Site))
	}
	return errors.Join(errs...)
}

// parent holds one directory for each cluster. It must not be on an overlay, or the
// kernel refuses to lay the nodes' overlays over it.
const parent = "/var/lib/culvert-kubernetes"

// Dir is the directory of the cluster of that name.
func Dir(name string) string { return filepath.Join(parent, name) }

// Kubeconfig is the path of the administrator's, for use on this machine.
func Kubeconfig(name string) string { return filepath.Join(Dir(name), "kubeconfig") }

func (c Config) dir() string               { return Dir(c.Name) }
func (c Config) pki(file string) string    { return filepath.Join(c.dir(), "pki", file) }
func (c Config) binary(name string) string { return filepath.Join(c.Binaries, name) }
func (c Config) log(name string) string    { return filepath.Join(c.dir(), "log", name+".log") }

// dual is what a node has twice: for IPv4, which is the cluster's first family, and for
// IPv6.
type dual[T any] [2]T

// The addresses of services, inside of the cluster's own network namespaces. Services may have
// both families; the API server and CoreDNS have IPv4.
var (
	apiService = netip.MustParseAddr("10.96.0.1")
	dnsService = netip.MustParseAddr("10.96.0.10")
)

const serviceNetworks = "10.96.0.0/16,fd00:10:96::/112"

// The other addresses, of the cluster that this process is a part of: Role sets them. A node's
// pods have a /24 and a /64 of podNetworks.
var (
	controlPlane dual[netip.Prefix]
	nodes        []node
	podNetworks  string
	apiURL       string
)

// node is one of the machines. Its files are below the cluster's directory.
type node struct {
	Name  string
	Addrs dual[netip.Addr]
}

func init() { settle(0) }

// settle has this process be a part of a cluster of a site.
func settle(site int) {
	v4, v6 := fmt.Sprintf("192.168.%d.", 77+site), fmt.Sprintf("fd00:%d::", 77+site)
	controlPlane = dual[netip.Prefix]{netip.MustParsePrefix(v4 + "1/24"), netip.MustParsePrefix(v6 + "1/64")}
	nodes = []node{
		{"node1", dual[netip.Addr]{netip.MustParseAddr(v4 + "11"), netip.MustParseAddr(v6 + "11")}},
		{"node2", dual[netip.Addr]{netip.MustParseAddr(v4 + "12"), netip.MustParseAddr(v6 + "12")}},
	}
	podNetworks = fmt.Sprintf("10.%[1]d.0.0/16,fd00:10:%[1]d::/48", 244+site)
	apiURL = "https://" + v4 + "1:6443"
}

// nodeDir is a directory of a node's, on this machine.
func (c Config) nodeDir(name string, more ...string) string {
	return filepath.Join(append([]string{c.dir(), name}, more...)...)
}

// nodeFile is a file of a node's /etc/kubernetes, on this machine.
func (c Config) nodeFile(n node, file string) string { return c.nodeDir(n.Name, "kubernetes", file) }
