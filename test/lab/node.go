// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Node is a node: a netns in which ztunnel and the plugins run, with cgroups,
// a bpffs, state and a view of the cluster that no other node shares.
type Node struct {
	Name               string
	IP4, IP6           netip.Addr
	PodCIDR4, PodCIDR6 netip.Prefix
	Kubelet            *Place   // what probes come from
	Host               *Place   // any other process of the node; plugins run here
	Ztunnel            *Process // nil before StartZtunnel
	State              string   // ztunnel's -state-dir
	BPFFS              string   // ztunnel's -bpffs
	Cgroup             string   // above Kubelet, Host, ztunnel and pods

	lab     *Lab
	ns      *namespace
	dir     string
	yaml    string
	ztunnel *Place
	opts    ZtunnelOptions // of the last start

	mu     sync.Mutex // guards what follows
	pods   map[string]*Pod
	access accessLog
}

func (l *Lab) newNode(number int) (*Node, error) {
	name := fmt.Sprintf("node%d", number)
	ns, err := l.newNamespace(name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(l.run.dir, name)
	n := &Node{
		Name: name, IP4: host(wire4, number).Addr(), IP6: host(wire6, number).Addr(),
		State: filepath.Join(dir, "state"), BPFFS: filepath.Join(dir, "bpf", "culvert"),
		Cgroup: filepath.Join(l.run.cgroup, name),
		lab:    l, ns: ns, dir: dir, yaml: filepath.Join(dir, "yaml"), pods: make(map[string]*Pod),
	}
	n.PodCIDR4, n.PodCIDR6 = podCIDRs(number)
	if err := l.sysctl(ns, forwarding); err != nil {
		return nil, err
	}
	if err := l.Wire.attach(name, ns, number); err != nil {
		return nil, err
	}
	if err := n.makeDirs(); err != nil {
		return nil, err
	}
	if err := n.makePlaces(); err != nil {
		return nil, err
	}
	v := view{dir: n.yaml}
	if l.opts.Apart {
		v.node = name
	}
	return n, l.cluster.join(v)
}

func (n *Node) makeDirs() error {
	for _, dir := range []string{n.State, filepath.Join(n.dir, "cni"), filepath.Join(n.dir, "bpf")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// A mount of its own: unmounting it is what removes all pins at the end.
	if err := unix.Mount("bpf", filepath.Join(n.dir, "bpf"), "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount the bpffs of %s: %w", n.Name, err)
	}
	return nil
}

func (n *Node) makePlaces() (err error) {
	for _, p := range []struct {
		place **Place
		name  string
	}{{&n.Kubelet, "kubelet"}, {&n.Host, "host"}, {&n.ztunnel, "ztunnel"}} {
		if *p.place, err = n.lab.newPlace(n.Name+"-"+p.name, n.ns, n.Name, p.name); err != nil {
			return err
		}
	}
	return n.lab.enterScript(n.Name, n.Host)
}

// Addr is the node's address of a family, "tcp4" or "tcp6".
func (n *Node) Addr(network string) netip.Addr {
	if network == "tcp6" {
		return n.IP6
	}
	return n.IP4
}
