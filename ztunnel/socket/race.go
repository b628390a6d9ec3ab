// SPDX-License-Identifier: Apache-2.0

//go:build race

package socket

import "syscall"

// For the race detector, what one end of a connection wrote happened before the
// other end read it, if both did so by package syscall.

func read(fd uintptr, p []byte) (int, error) { return whole(syscall.Read(int(fd), p)) }

func write(fd uintptr, p []byte) (int, error) { return whole(syscall.Write(int(fd), p)) }

func readv(fd uintptr, v [][]byte) (int, error) { return each(fd, v, read) }

func writev(fd uintptr, v [][]byte) (int, error) { return each(fd, v, write) }

// each does with one segment after the other what the kernel does at once.
func each(fd uintptr, v [][]byte, do func(uintptr, []byte) (int, error)) (total int, err error) {
	for _, p := range v {
		n, err := do(fd, p)
		total += n
		if total > 0 && (err != nil || n < len(p)) {
			return total, nil
		}
		if err != nil || n < len(p) {
			return 0, err
		}
	}
	return total, nil
}

func whole(n int, err error) (int, error) { return max(n, 0), err }
