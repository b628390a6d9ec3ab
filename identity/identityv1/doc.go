// SPDX-License-Identifier: Apache-2.0

// Package identityv1 is the wire between ztunnel and a certificate authority:
// gRPC istio.v1.auth.IstioCertificateService, which istiod speaks, too, and
// culvert.identity.v1.NodeService, which only culvert-identity does. Generated
// from certificate.proto and node.proto.
package identityv1

//go:generate ./generate.sh

// ImpersonatedIdentity is the key of IstioCertificateRequest.metadata that
// holds the SPIFFE ID asked for.
const ImpersonatedIdentity = "ImpersonatedIdentity"
