// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"net"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/federation"
	"github.com/culvert-mesh/culvert/identity/server"
)

// federated is what keeps the bundles of other trust domains; nil if there are none.
func (c *config) federated(authority *ca.CA) (*federation.Federation, error) {
	if c.federation == "" {
		return nil, nil
	}
	f, err := federation.New(federation.Options{CA: authority, File: c.federation, State: c.federationState, Log: c.log})
	return f, refused("federation", err)
}

// endpoint is where others get the bundle of this trust domain.
type endpoint struct {
	listener    net.Listener
	certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	trouble     func() string // with the files of the certificate; nil: there are none
}

// openEndpoint returns nil if nobody gets the bundle.
func (c *config) openEndpoint(authority *ca.CA) (*endpoint, error) {
	if c.bundleEndpoint == "" {
		return nil, nil
	}
	e := &endpoint{certificate: authority.EndpointCertificate()}
	if c.endpointCert != "" {
		web := server.NewWebCertificate(c.endpointCert, c.endpointKey, c.log)
		e.certificate, e.trouble = web.Get, web.Trouble
	}
	var err error
	e.listener, err = net.Listen("tcp", c.bundleEndpoint)
	return e, refused("bundle-endpoint", err)
}

func (e *endpoint) close() {
	if e != nil {
		e.listener.Close()
	}
}
