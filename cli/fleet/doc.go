// SPDX-License-Identifier: Apache-2.0

// Package fleet asks the programs of a mesh what they hold: each node's ztunnel for
// its /config_dump, each replica of the CA for its certificate and its own dump.
//
// It reads, and changes nothing. What does not answer is a row that says why: one
// dead node hides no other.
package fleet
