// SPDX-License-Identifier: Apache-2.0

package env

import (
	"net"
	"testing"
)

// Address returns a loopback address and port on which nobody listens, for a program
// that listens by itself, or that stops and listens again. No other caller gets it
// before t ends: a UDP socket holds the port's number meanwhile. The address is neither
// the one that tests listen on nor one that the kernel gives to clients.
func Address(t testing.TB) string {
	t.Helper()
	for range 100 {
		held, err := net.ListenPacket("udp4", "127.83.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { held.Close() })
		address := held.LocalAddr().String()
		ln, err := net.Listen("tcp4", address)
		if err != nil {
			continue // somebody listens on every address
		}
		ln.Close()
		return address
	}
	t.Fatal("no port of 127.83.0.1 is free")
	return ""
}
