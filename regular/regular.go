// SPDX-License-Identifier: Apache-2.0

// Package regular reads files that another hand writes: what is there need not be a
// file, nor small.
package regular

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// ReadFile returns what a file holds, up to limit bytes; a longer one is an error. It
// never waits: a pipe, a directory or a device is an error, too, also if it took the
// file's place a moment ago.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would wait for a writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !stat.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return text, err
}
