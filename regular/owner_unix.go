// SPDX-License-Identifier: Apache-2.0

//go:build unix

package regular

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// GiveTo gives a file that root made to the owner of another one. Other users give nothing
// away.
func GiveTo(f *os.File, other fs.FileInfo) error {
	stat, ok := other.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// Changed is when the file at path, or the link, got the name that it has, at the latest. Its
// contents may be older: it may have come from a backup.
func Changed(path string) (time.Time, error) {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return time.Time{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return time.Unix(stat.Ctim.Unix()), nil
}
