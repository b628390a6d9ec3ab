// SPDX-License-Identifier: Apache-2.0

// Package identityv1 is the wire between ztunnel and a certificate authority:
// gRPC istio.v1.auth.IstioCertificateService, which istiod speaks, too, and
// NodeService and CertificateService of culvert.identity.v1, which only
// culvert-identity does. Generated from certificate.proto, node.proto and
// service.proto.
package identityv1

//go:generate ./generate.sh

// ImpersonatedIdentity is the key of IstioCertificateRequest.metadata that
// holds the SPIFFE ID asked for.
const ImpersonatedIdentity = "ImpersonatedIdentity"

// Bounds of CertificateService.
const (
	MaxBatch     = 128      // requests of one Sign
	MaxRoots     = 64       // of one Bundle
	MaxDenied    = 10_000   // entries of one deny set
	MaxDenyPart  = 32 << 10 // bytes of the entries of one DenySet
	MaxDenyCause = 256      // bytes of a DenyEntry's reason

	MaxFederated      = 16 // trust domains of one Bundle
	MaxFederatedRoots = 32 // of one of them
)
