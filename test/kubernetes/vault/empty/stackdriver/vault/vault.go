// SPDX-License-Identifier: Apache-2.0

// Package vault is empty in this build.
package vault

var Extractor, Bucketer any
