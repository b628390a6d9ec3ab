// SPDX-License-Identifier: Apache-2.0

package flock

import (
	"errors"
	"os"
)

var errWindows = errors.New("directories of a mesh are locked on Linux and macOS alone")

// Try returns an error.
func Try(*os.File) error { return errWindows }

// Wait returns an error.
func Wait(*os.File) error { return errWindows }

// Holder names nobody.
func Holder(*os.File) string { return "nobody: " + errWindows.Error() }
