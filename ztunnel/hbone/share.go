// SPDX-License-Identifier: Apache-2.0

package hbone

import "fmt"

// Share bounds how many sockets the tunnels of a pod may have. It is shared
// with whatever else holds sockets for the pod.
type Share interface {
	Take() error // one more, or why not
	Give()       // one less
}

// unbounded is the Share of who has none.
type unbounded struct{}

func (unbounded) Take() error { return nil }
func (unbounded) Give()       {}

// sharedOr is share, or unbounded.
func sharedOr(share Share) Share {
	if share == nil {
		return unbounded{}
	}
	return share
}

// overdrawn gives the reason of a Share its Cause.
func overdrawn(err error) error { return fmt.Errorf("%w: %w", ErrLimit, err) }
