// SPDX-License-Identifier: Apache-2.0

package regular

import (
	"io/fs"
	"os"
	"time"
)

// GiveTo does nothing: a file has the access rights of its directory.
func GiveTo(*os.File, fs.FileInfo) error { return nil }

// Changed is when the contents of a file changed.
func Changed(path string) (time.Time, error) {
	stat, err := os.Lstat(path)
	if err != nil {
		return time.Time{}, err
	}
	return stat.ModTime(), nil
}
