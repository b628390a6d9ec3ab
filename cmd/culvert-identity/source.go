// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// source is where the CA hears what runs where, and where placement asks.
func (c *config) source(placement *server.Placement) (source.Source, error) {
	if c.kubeconfig != "" {
		s, err := kube.New(kube.Options{
			Kubeconfig: c.kubeconfig, PlacementOnly: true, Log: c.log,
			Build: source.Options{TrustDomain: c.trustDomain, IgnoreIstioLabels: c.ignoreIstioLabels},
		})
		placement.Ask = func(ctx context.Context, node string, sa identity.ServiceAccount) (bool, []server.Agent, error) {
			found, err := s.Ask(ctx, node, sa.Namespace, sa.Name)
			mesh := workload.Mesh{Workloads: found}
			return len(running(mesh)) > 0, agents(mesh, c.nodeAccounts), err
		}
		return s, refused("kubeconfig", err)
	}
	if err := isDirectory("workloads", c.workloads, true); err != nil {
		return nil, err
	}
	return file.New(c.workloads, file.Options{TrustDomain: c.trustDomain, IgnoreIstioLabels: c.ignoreIstioLabels, Log: c.log}), nil
}

// attestor proves nodes' tokens: by keys in a file, or by the API server's word.
func (c *config) attestor(placement *server.Placement) (server.Attestor, error) {
	if c.jwks != "" {
		j := &server.JWKS{File: c.jwks, Audience: c.audience}
		return j, refused("jwks", j.Check())
	}
	client, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return nil, nil // source says so
	}
	r, err := server.NewTokenReview(client, server.TokenReviewOptions{Placement: placement, NodeAccounts: c.nodeAccounts, Audience: c.audience})
	return r, refused("kubeconfig", err)
}

// running is for whom certificates may be asked, and from where. A pod in its
// node's network namespace is not carried by the mesh, and so needs none.
func running(mesh workload.Mesh) []server.Running {
	var all []server.Running
	for _, w := range mesh.Workloads {
		if w.Meshed && !w.HostNetwork && !w.Terminated && w.Node != "" {
			all = append(all, server.Running{
				Node:           w.Node,
				ServiceAccount: identity.ServiceAccount{Namespace: w.Namespace, Name: w.ServiceAccount},
			})
		}
	}
	return all
}

// agents are the pods whose tokens may speak for a node.
func agents(mesh workload.Mesh, accounts []identity.ServiceAccount) []server.Agent {
	var all []server.Agent
	for _, w := range mesh.Workloads {
		account := identity.ServiceAccount{Namespace: w.Namespace, Name: w.ServiceAccount}
		if !w.Terminated && w.Node != "" && slices.Contains(accounts, account) {
			all = append(all, server.Agent{UID: w.UID, Name: w.Name, ServiceAccount: account, Node: w.Node, Addrs: w.Addrs})
		}
	}
	return all
}
