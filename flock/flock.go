// SPDX-License-Identifier: Apache-2.0

// Package flock locks files and directories by flock(2), and names the process that has
// locked one, for errors that say on whom somebody waits.
package flock

import "errors"

// ErrHeld is what Try returns if another process has locked the file.
var ErrHeld = errors.New("another process has locked it")
