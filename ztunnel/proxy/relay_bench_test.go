// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// relayBench is a relay between two loopback connections.
func relayBench(b *testing.B) (client, server *net.TCPConn) {
	b.Helper()
	pair := func() (dialed, accepted *net.TCPConn) {
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		if dialed, err = net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr)); err != nil {
			b.Fatal(err)
		}
		if accepted, err = ln.AcceptTCP(); err != nil {
			b.Fatal(err)
		}
		return dialed, accepted
	}
	client, app := pair()
	far, server := pair()
	var wg sync.WaitGroup
	wg.Add(1)
	go relay(context.Background(), app, far, &tally{}, NewBudget().Share("shop/web"), func(error) { wg.Done() })
	b.Cleanup(func() { client.Close(); server.Close(); wg.Wait() })
	return client, server
}

func BenchmarkRelayRoundTrip(b *testing.B) {
	client, server := relayBench(b)
	go io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{server})
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRelayBulk(b *testing.B) {
	client, server := relayBench(b)
	go io.Copy(io.Discard, struct{ io.Reader }{server})
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}
