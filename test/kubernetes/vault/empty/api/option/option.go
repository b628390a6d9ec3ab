// SPDX-License-Identifier: Apache-2.0

// Package option is empty in this build.
package option

func WithUserAgent(string) any { return nil }
