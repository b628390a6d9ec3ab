// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// full says of a write to a map that it failed because all entries are taken, by
// ENOBUFS: the kernel's E2BIG reads "argument list too long".
func full(m *ebpf.Map, err error) error {
	if !errors.Is(err, unix.E2BIG) {
		return err
	}
	name := "?"
	if info, err := m.Info(); err == nil {
		name = info.Name
	}
	return fmt.Errorf("map %s is full: the node has all %d entries that Culvert allows: %w", name, m.MaxEntries(), unix.ENOBUFS)
}
