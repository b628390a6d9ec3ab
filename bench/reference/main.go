// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs one end as its arguments say: relay, enter, leave or wireguard.
func Run(args []string) error {
	flags := flag.NewFlagSet("reference", flag.ContinueOnError)
	listen := flags.String("listen", "", "address to accept at")
	gate := flags.String("gate", "", "enter: address of the other end")
	to := flags.String("to", "", "relay, enter: address to reach")
	cert, key := flags.String("cert", "", "PEM file"), flags.String("key", "", "PEM file")
	roots, name := flags.String("roots", "", "PEM file"), flags.String("name", "", "of the other end")
	var end WireGuard
	bytes := func(name string, to *[]byte) {
		flags.Func(name, "wireguard: 32 bytes in hex", func(text string) (err error) {
			*to, err = hex.DecodeString(text)
			return err
		})
	}
	bytes("private", &end.Private)
	bytes("peer", &end.Peer)
	flags.TextVar(&end.Endpoint, "endpoint", netip.Addr{}, "wireguard: address of the other end")
	flags.TextVar(&end.Inside, "inside", netip.Addr{}, "wireguard: address of the device")
	flags.TextVar(&end.Far, "far", netip.Addr{}, "wireguard: address of the other device")
	count := flags.String("count", "", "unix socket that tells the allocations so far; none")
	if len(args) == 0 {
		return fmt.Errorf("reference: want relay, enter, leave or wireguard")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if args[0] == "wireguard" {
		return end.Run()
	}
	const files = 1 << 17
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
	// As in ours: a socket of MPTCP would not be what the others are measured by.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp4", *listen)
	if err != nil {
		return err
	}
	if *count != "" {
		if err := tellAllocations(*count); err != nil {
			return err
		}
	}
	if args[0] == "relay" {
		return Relay(ln, *to)
	}
	cfg, err := TLS(*cert, *key, *roots, *name)
	if err != nil {
		return err
	}
	if args[0] == "enter" {
		return Enter(ln, *gate, *to, cfg)
	}
	return Leave(ln, cfg)
}

// tellAllocations answers each connection with the number of allocations.
func tellAllocations(path string) error {
	os.Remove(path)
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			fmt.Fprint(conn, m.Mallocs)
			conn.Close()
		}
	}()
	return nil
}
