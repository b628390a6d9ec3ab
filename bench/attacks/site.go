// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
	"github.com/culvert-mesh/culvert/test/lab"
)

const (
	namespace  = "mesh"
	tunnelPort = 15008
	closedPort = 9
)

// site is two nodes: the victim's client on the one; its server and a neighbour,
// which is attacked, on the other; a peer on the wire that means harm; and two pods that
// make noise, one on each node.
type site struct {
	lab                     *lab.Lab
	post                    *load.Post
	client, server, outside *load.Worker
	clientPod               *lab.Pod
	to                      netip.AddrPort // the victim's server
	serverGate, gate        netip.AddrPort // where it and the neighbour take tunnels
	app, closed             netip.AddrPort // of the neighbour
	neighbour               *load.Worker
	noisy, noisyServer      *load.Worker
	noisyAt, noisyServerAt  netip.AddrPort
	noisyGate               netip.AddrPort // where the latter takes tunnels
	ztunnel                 int            // of the second node
	peer                    load.Credential
}

// newSite builds one whose ztunnels are program's, or the lab's own.
func newSite(ctx context.Context, program string) (s *site, err error) {
	s = &site{}
	if s.lab, err = lab.New(ctx, lab.Options{Nodes: 2}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if program != "" {
		for _, n := range s.lab.Nodes {
			if err := n.Ztunnel.Stop(ctx); err != nil {
				return nil, err
			}
			if err := n.StartZtunnel(ctx, lab.ZtunnelOptions{Program: program}); err != nil {
				return nil, err
			}
		}
	}
	s.ztunnel = s.lab.Nodes[1].Ztunnel.PID()
	if s.post, err = load.NewPost(s.lab.Dir()); err != nil {
		return nil, err
	}
	if err := s.lab.Namespace(namespace, map[string]string{"culvert.dev/mesh": "enabled"}); err != nil {
		return nil, err
	}
	var pods [5]*lab.Pod
	for i, p := range []struct {
		name    string
		node    *lab.Node
		worker  **load.Worker
		command string
	}{
		{"client", s.lab.Nodes[0], &s.client, loadCommand}, {"server", s.lab.Nodes[1], &s.server, loadCommand},
		{"neighbour", s.lab.Nodes[1], &s.neighbour, loadCommand},
		{"noisy", s.lab.Nodes[0], &s.noisy, boundCommand}, {"noisy-server", s.lab.Nodes[1], &s.noisyServer, boundCommand},
	} {
		if pods[i], err = p.node.Pod(ctx, lab.PodSpec{Namespace: namespace, Name: p.name, ServiceAccount: p.name}); err != nil {
			return nil, err
		}
		if *p.worker, err = s.start(pods[i].Place, p.command); err != nil {
			return nil, err
		}
	}
	s.clientPod = pods[0]
	s.to, s.app = pods[1].At("tcp4", load.Port), pods[2].At("tcp4", load.Port)
	s.noisyAt, s.noisyServerAt = pods[3].At("tcp4", load.Port), pods[4].At("tcp4", load.Port)
	s.noisyGate = pods[4].At("tcp4", tunnelPort)
	s.serverGate = pods[1].At("tcp4", tunnelPort)
	s.gate, s.closed = pods[2].At("tcp4", tunnelPort), pods[2].At("tcp4", closedPort)
	if s.outside, err = s.start(s.lab.Outside.Place, boundCommand); err != nil {
		return nil, err
	}
	return s, s.mint()
}

func (s *site) start(at *lab.Place, command string) (*load.Worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if _, err := at.Start("load", self, command, s.post.Path); err != nil {
		return nil, err
	}
	return s.post.Await()
}

// mint makes the identity of the peer that means harm: a workload like any other.
func (s *site) mint() error {
	cert, _, err := s.lab.Identity.Mint("spiffe://cluster.local/ns/"+namespace+"/sa/peer", 24*time.Hour)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.lab.Dir(), "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s.peer, err = load.WriteCredential(dir, "peer", cert)
	s.peer.Roots = s.lab.Identity.Root
	return err
}

// memory is what the second node's ztunnel holds, in MB.
func (s *site) memory() float64 {
	n, err := proc.RSS(s.ztunnel)
	if err != nil {
		return 0
	}
	return float64(n) / 1e6
}

func (s *site) close() error {
	if s.post != nil {
		s.post.Close()
	}
	return s.lab.Close()
}
