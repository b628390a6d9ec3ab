// SPDX-License-Identifier: Apache-2.0

// Package reference holds what the benchmark compares with: the tunnel as a
// user of x/net/http2 and crypto/tls writes it, and a relay without any
// crypto. Each runs as two processes, one in each pod.
package reference
