// SPDX-License-Identifier: Apache-2.0

// Package ztunnel is the node agent: it steers the traffic of enrolled pods
// into itself and carries it between nodes in mutual TLS.
//
// A ten-minute tour, in the order of a connection:
//
//  1. README.md, the drawing
//  2. ztunnel/ztunnel.go: Run builds the parts in data-path order
//  3. bpf/outbound.bpf.c: connect() in a pod reaches our listener
//  4. ztunnel/proxy/outbound.go: where to, who is there, may we, how
//  5. ztunnel/policy/policy.go: allow, or a reason
//  6. ztunnel/hbone/pool.go: the tunnel to the peer's node
//  7. ztunnel/certs/tls.go: who we are, and whom we accept
//  8. ztunnel/proxy/inbound.go: the same connection on the peer's node
//
// ztunnel/pods is the life of a pod: how it is enrolled, verified against the
// kernel, taken over by the next ztunnel, and let go.
package ztunnel
