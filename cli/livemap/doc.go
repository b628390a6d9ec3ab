// SPDX-License-Identifier: Apache-2.0

// Package livemap serves a page that shows who talks to whom in the mesh, while it happens
// and up to an hour back.
//
// A History takes what the nodes said every few seconds and keeps what changed, within a
// bound of memory. While somebody follows, it hears what they refuse between two answers,
// which have the last word. A Server gives a viewer the graph at one moment, and then each moment as
// it comes, by server-sent events. A Gate decides who may look, and which namespaces that
// viewer sees: what lies elsewhere leaves the server without a name.
//
// The page itself is web/dist, one script and one style sheet, which `make map` builds from
// web/src. Nothing of it comes from elsewhere.
package livemap
