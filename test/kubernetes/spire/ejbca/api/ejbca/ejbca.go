// SPDX-License-Identifier: Apache-2.0

// Package ejbca stands in for EJBCA's client, which not every module proxy has. SPIRE's server
// has a plugin that imports it, and go mod tidy wants all that is imported to be there. The
// plugin itself is left out of what is built (test/kubernetes/binaries).
package ejbca
