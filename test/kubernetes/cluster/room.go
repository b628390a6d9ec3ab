// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// watches is how many inotify instances a cluster takes, with a few for what it is to run.
const watches = 32

// roomForWatches is an error unless there is room for a cluster's. Without it containerd
// starts nevertheless, but not what the kubelet needs, and no node ever registers.
func roomForWatches() error {
	for range watches {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return fmt.Errorf("no room for the %d inotify instances of a cluster: end another one, or raise fs.inotify.max_user_instances: %w", watches, err)
		}
		defer unix.Close(fd)
	}
	return nil
}
