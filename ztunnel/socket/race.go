// SPDX-License-Identifier: Apache-2.0

//go:build race

package socket

import "golang.org/x/sys/unix"

// The race detector knows that what one end wrote happened before the other
// end read it, if both used these.

func read(fd uintptr, p []byte) (int, error) { return whole(unix.Read(int(fd), p)) }

func write(fd uintptr, p []byte) (int, error) { return whole(unix.Write(int(fd), p)) }

func readv(fd uintptr, v [][]byte) (int, error) { return whole(unix.Readv(int(fd), v)) }

func writev(fd uintptr, v [][]byte) (int, error) { return whole(unix.Writev(int(fd), v)) }

func whole(n int, err error) (int, error) { return max(n, 0), err }
