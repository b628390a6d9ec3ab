// SPDX-License-Identifier: Apache-2.0

// Package alerts makes every alert of deploy/alerts fire, and sees that none does in a
// mesh that is well. Real programs are scraped; Prometheus' own engine evaluates the
// rules.
package alerts
