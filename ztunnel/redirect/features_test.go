// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestMissingKernelFeatureIsNamed(t *testing.T) {
	have := func(err error) func() error { return func() error { return err } }
	err := firstMissing([]feature{
		{"sliced bread", "1.0", have(nil)},
		{"warp drive", "9.9", have(ebpf.ErrNotSupported)},
	})
	if want := "warp drive, in Linux since 9.9: not supported by this kernel"; !errors.Is(err, ErrUnsupported) || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	err = firstMissing([]feature{{"warp drive", "9.9", have(unix.EPERM)}})
	if errors.Is(err, ErrUnsupported) || !errors.Is(err, unix.EPERM) {
		t.Errorf("a refused probe: %v, want EPERM", err)
	}
}
