// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/identity/taint"
	"github.com/culvert-mesh/culvert/identity/verdict"
	"github.com/culvert-mesh/culvert/regular"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// source is where the CA hears what runs where, and where placement asks.
func (c *config) source(placement *server.Placement, known *server.Accounts, names *leafNames) (source.Source, error) {
	if c.kubeconfig != "" {
		s, err := kube.New(kube.Options{
			Kubeconfig: c.kubeconfig, PlacementOnly: true, Log: c.log,
			Build: source.Options{TrustDomain: c.trustDomain, RootNamespace: c.rootNamespace, IgnoreIstioLabels: c.ignoreIstioLabels, Selectors: c.dnsSANs},
		})
		placement.Ask = func(ctx context.Context, node string, sa identity.ServiceAccount) ([]server.Running, []server.Agent, error) {
			found, err := s.Ask(ctx, node, sa.Namespace, sa.Name)
			mesh := workload.Mesh{Workloads: found}
			return running(mesh, names), c.agents(mesh), err
		}
		placement.AskNode = func(ctx context.Context, name string) (string, bool, error) { return s.AskNode(ctx, name) }
		known.Ask = func(ctx context.Context, sa identity.ServiceAccount) (server.Account, bool, error) {
			a, found, err := s.AskAccount(ctx, sa.Namespace, sa.Name)
			return server.Account(a), found, err
		}
		return s, refused("kubeconfig", err)
	}
	if err := isDirectory("workloads", c.workloads, true); err != nil {
		return nil, err
	}
	return file.New(c.workloads, file.Options{
		TrustDomain: c.trustDomain, RootNamespace: c.rootNamespace, IgnoreIstioLabels: c.ignoreIstioLabels, Selectors: c.dnsSANs, Log: c.log,
	}), nil
}

// attestor proves nodes' tokens: by keys in a file, or by the API server's word.
func (c *config) attestor(placement *server.Placement) (server.Attestor, error) {
	if c.jwks != "" {
		expected := c.expected()
		expected.Issuer = cmp.Or(expected.Issuer, server.KubernetesIssuer)
		j := &server.JWKS{File: c.jwks, Expected: expected, Placement: placement}
		return j, refused("jwks", j.Check())
	}
	if c.oidcIssuer != "" {
		return c.oidc(placement)
	}
	client, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return nil, nil // source says so
	}
	r, err := server.NewTokenReview(client, server.TokenReviewOptions{Placement: placement, NodeAccounts: c.nodeAccounts, Expected: c.expected()})
	return r, refused("kubeconfig", err)
}

// oidc proves tokens by what their issuer publishes. That it is away is no reason not to
// start.
func (c *config) oidc(placement *server.Placement) (server.Attestor, error) {
	var roots *x509.CertPool
	if c.oidcCA != "" {
		text, err := regular.ReadFile(c.oidcCA, 1<<20)
		if err != nil {
			return nil, refused("oidc-ca", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, refused("oidc-ca", fmt.Errorf("%s holds no certificate in PEM", c.oidcCA))
		}
	}
	return server.NewOIDC(c.oidcIssuer, roots, c.expected(), placement)
}

// tainter is what taints the nodes of ztunnels that are away; nil if nobody wants it.
func (c *config) tainter() (*taint.Watch, error) {
	if c.taintAfter == 0 {
		return nil, nil
	}
	api, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return nil, refused("kubeconfig", err)
	}
	return taint.New(taint.Options{API: api, Key: source.NotReadyTaint, After: c.taintAfter, Accounts: c.nodeAccounts, Log: c.log})
}

// verdicts is what writes the status of policies; nil if nobody wants it.
func (c *config) verdicts() (*verdict.Reporter, error) {
	if c.policyStatus == "" {
		return nil, nil
	}
	api, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return nil, refused("kubeconfig", err)
	}
	return verdict.New(verdict.Options{API: api, Lease: c.policyStatus, RootNamespace: c.rootNamespace, Accounts: c.nodeAccounts, Log: c.log})
}

func (c *config) expected() server.Expected {
	return server.Expected{Issuer: c.issuer, Audience: c.audience, Lifetime: c.tokenLifetime}
}

// serviceAccounts are those of a snapshot.
func serviceAccounts(all map[source.Name]source.Account) map[identity.ServiceAccount]server.Account {
	out := make(map[identity.ServiceAccount]server.Account, len(all))
	for name, a := range all {
		out[identity.ServiceAccount(name)] = server.Account(a)
	}
	return out
}

// running is for whom certificates may be asked, and from where, and who is there
// without being carried by the mesh.
func running(mesh workload.Mesh, names *leafNames) []server.Running {
	var all []server.Running
	for _, w := range mesh.Workloads {
		if !w.Terminated && w.Node != "" {
			all = append(all, server.Running{
				Node: w.Node, ServiceAccount: identity.ServiceAccount{Namespace: w.Namespace, Name: w.ServiceAccount},
				UID: w.UID, Outside: outside(w), DNSNames: names.of(w),
			})
		}
	}
	return all
}

// outside is why the mesh does not carry a pod, empty if it does. One in its node's
// network namespace needs no certificate.
func outside(w *workload.Packed) string {
	name := w.Namespace + "/" + w.Name
	switch {
	case w.HostNetwork:
		return "pod " + name + " is in the node's network namespace"
	case w.Unsteerable != "":
		return "pod " + name + ": " + w.Unsteerable
	case !w.Meshed:
		return "no label puts pod " + name + " into the mesh"
	}
	return ""
}

// agents are the pods whose tokens may speak for a node, and those that only have the
// ServiceAccount of these.
func (c *config) agents(mesh workload.Mesh) []server.Agent {
	var all []server.Agent
	for _, w := range mesh.Workloads {
		account := identity.ServiceAccount{Namespace: w.Namespace, Name: w.ServiceAccount}
		if !w.Terminated && w.Node != "" && slices.Contains(c.nodeAccounts, account) {
			all = append(all, server.Agent{UID: w.UID, Name: w.Name, ServiceAccount: account, Node: w.Node, Addrs: w.Addrs, Foreign: c.foreign(w)})
		}
	}
	return all
}

// foreign is why a pod does not speak for its node although it has the ServiceAccount for
// it, empty if it does. Whoever may make pods in that namespace may name the ServiceAccount.
func (c *config) foreign(w *workload.Packed) string {
	switch want := strings.Join(c.daemonSets, " or "); {
	case want == anyPod || w.Daemon && slices.Contains(c.daemonSets, w.Owner):
		return ""
	case w.Daemon:
		return "it is of the DaemonSet " + w.Owner + ", want " + want
	default:
		return "it is of no DaemonSet, want " + want
	}
}
