// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestAPodIsSteeredByAContainerWhoseSysctlsAreReadOnly(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	for _, flags := range []uintptr{unix.MS_BIND, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY} {
		if err := unix.Mount("/proc/sys", "/proc/sys", "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	w.enrolled()
	w.verify()
}
