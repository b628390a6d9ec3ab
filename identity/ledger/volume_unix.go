// SPDX-License-Identifier: Apache-2.0

//go:build unix

package ledger

import (
	"math"

	"golang.org/x/sys/unix"
)

// volume is how many bytes the file system of dir holds; 0 if that cannot be told.
func volume(dir string) int64 {
	var is unix.Statfs_t
	if unix.Statfs(dir, &is) != nil {
		return 0
	}
	block := int64(is.Bsize) // not as wide everywhere
	if block <= 0 || is.Blocks > uint64(math.MaxInt64/block) {
		return 0
	}
	return int64(is.Blocks) * block
}
