// SPDX-License-Identifier: Apache-2.0

// Package delegatedv1 is the wire between ztunnel and SPIRE's agent: gRPC
// spire.api.agent.delegatedidentity.v1.DelegatedIdentity. Generated from
// delegated.proto.
package delegatedv1

//go:generate ./generate.sh
