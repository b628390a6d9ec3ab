// SPDX-License-Identifier: Apache-2.0

// Package load makes the load of the benchmark: a worker process in each pod
// that serves connections and, when ordered, opens them and measures. It uses
// blocking sockets and one thread each, as the C programs do that people
// measure with: neither Go's poller nor its collector is in the numbers.
package load
