// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/spire"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// maxSocketPath is that of sockaddr_un, less the NUL behind it.
const maxSocketPath = 107

// issuer is who gives certificates: a CA, or SPIRE's agent. vouch is certs.Store.VouchForCA.
func (c Config) issuer(td spiffeid.TrustDomain, registry *workload.Registry, vouch func([]*x509.Certificate) ([]*x509.Certificate, uint64)) (interface {
	certs.Issuer
	io.Closer
}, error) {
	if c.SPIREAgentSocket != "" {
		return spire.New(spire.Config{
			WorkloadSocket: c.SPIREAgentSocket, AdminSocket: c.SPIREAdminSocket, TrustDomain: td, Node: c.NodeName, Pods: podsOf(c.NodeName, registry),
		})
	}
	return certs.NewClient(certs.ClientConfig{
		Address: c.CAAddress, RootFile: c.CARoot, ServerName: c.CAServerName, TokenFile: c.TokenFile, ClockSkew: c.ClockSkew,
		Endpoints: replicas(c.CAAddress, registry), Vouch: vouch,
	})
}

// podsOf returns the pods of a node by their identity, as SPIRE may select them.
func podsOf(node string, registry *workload.Registry) func(spiffeid.ID) []spire.Pod {
	return func(id spiffeid.ID) (found []spire.Pod) {
		for _, w := range registry.Local(node) {
			if w.ID == id {
				found = append(found, spire.Pod{UID: w.UID, Name: w.Name, Labels: maps.Collect(w.Labels.All())})
			}
		}
		return found
	}
}

// bundleFile is where the last good bundle of the issuer is kept, in the state directory.
func (c Config) bundleFile() string {
	if c.SPIREAgentSocket != "" {
		return spireFile
	}
	return bundleFile
}

// oneIssuer wants a CA or SPIRE, and all that it needs.
func (c Config) oneIssuer() error {
	ofCA := []struct{ field, flag, value string }{
		{"CA address", "ca-address", c.CAAddress}, {"CA root file", "ca-root", c.CARoot}, {"token file", "token-file", c.TokenFile},
	}
	var problems []error
	if c.SPIREAgentSocket == "" && c.SPIREAdminSocket == "" {
		for _, required := range ofCA {
			if required.value == "" {
				problems = append(problems, fmt.Errorf("%s is required (-%s), or SPIRE's agent (-spire-agent-socket)", required.field, required.flag))
			}
		}
		return errors.Join(problems...)
	}
	if c.SPIREAgentSocket == "" || c.SPIREAdminSocket == "" {
		problems = append(problems, errors.New("SPIRE's agent has a socket of its Workload API (-spire-agent-socket) and one of its Delegated Identity API (-spire-admin-socket): both are required"))
	}
	for _, socket := range []string{c.SPIREAgentSocket, c.SPIREAdminSocket} {
		if len(socket) > maxSocketPath {
			problems = append(problems, fmt.Errorf("%s is too long for a socket's path: %d bytes, the limit is %d (-spire-agent-socket, -spire-admin-socket)", socket, len(socket), maxSocketPath))
		}
	}
	for _, other := range ofCA {
		if other.value != "" {
			problems = append(problems, fmt.Errorf("certificates come from SPIRE's agent (-spire-agent-socket) or from a CA (-%s), not from both", other.flag))
		}
	}
	if c.TTL != 0 {
		problems = append(problems, errors.New("SPIRE's registration entries say how long certificates last: -ttl is for a CA"))
	}
	return errors.Join(problems...)
}

// remedy names the flag that sets what is wrong between this node and its issuer.
func (c Config) remedy(reason certs.Reason) string {
	if c.SPIREAgentSocket != "" {
		return map[certs.Reason]string{
			certs.Unreachable: "-spire-agent-socket, -spire-admin-socket",
			certs.TrustDomain: "-trust-domain; trust_domain of SPIRE's agent",
			certs.NotDelegate: "authorized_delegates of SPIRE's agent",
		}[reason]
	}
	flag, known := map[certs.Reason]string{
		certs.RootFile:         "-ca-root",
		certs.CACertificate:    "-ca-root",
		certs.CAName:           "-ca-server-name",
		certs.Unreachable:      "-ca-address",
		certs.TrustDomain:      "-trust-domain",
		certs.NodeName:         "-node-name, -token-file",
		"token_key_unknown":    "-token-file; -jwks of the CA",
		"token_audience_wrong": "-token-file; -audience of the CA",
		"account_not_trusted":  "-token-file; -node-accounts of the CA",
	}[reason]
	if !known && strings.HasPrefix(string(reason), "token_") { // the file, or what is in it
		return "-token-file"
	}
	return flag
}
