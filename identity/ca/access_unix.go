// SPDX-License-Identifier: Apache-2.0

//go:build unix

package ca

import "golang.org/x/sys/unix"

// writable reports whether we may make files in the directory: a mount of the kubelet
// is read-only.
func (d Directory) writable() bool { return unix.Access(d.Path, unix.W_OK|unix.X_OK) == nil }
