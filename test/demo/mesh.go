// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// plain is step 1.
func (s *story) plain(ctx context.Context) error {
	const secret = "PIN of card 4242 is 1234"
	to := s.till.At("tcp4", shopPort)
	c, err := s.wire(ctx, func() (err error) {
		s.old, _, err = exchange(ctx, s.web.Place, to, secret)
		return err
	})
	if err != nil {
		return err
	}
	found, err := c.Contains([]byte(secret))
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("the payload is not on the wire: the capture is blind")
	}
	s.out.proved(fmt.Sprintf("pod %v talks to pod %v", s.web, s.till), fmt.Sprintf("%v -> %v", s.old.Local(), s.old.Peer()))
	flows, err := c.Flows(func(f capture.Flow) bool { return f.Server == to })
	if err != nil {
		return err
	}
	if len(flows) != 1 {
		return fmt.Errorf("on the wire are %v: want one connection to %v", flows, to)
	}
	s.out.proved("its payload is on the wire between the nodes, as clear text", dump(flows[0].Up))
	return nil
}

// meshed is step 2.
func (s *story) meshed(ctx context.Context) error {
	s.out.show("kubectl label namespace shop " + meshLabel + "=enabled")
	if err := s.lab.Label("shop", meshLabel, "enabled"); err != nil {
		return err
	}
	labelled := time.Now()
	if err := errors.Join(s.web.AwaitEnrolled(ctx), s.till.AwaitEnrolled(ctx)); err != nil {
		return err
	}
	s.out.proved(fmt.Sprintf("both running pods were enrolled %d ms later, without a restart", time.Since(labelled).Milliseconds()))
	if err := s.old.Ping(ctx, "still here"); err != nil {
		return fmt.Errorf("the connection from before broke: %w", err)
	}
	s.out.proved("the connection opened before keeps working, as it was")
	const secret = "PIN of card 5151 is 9876"
	var conns []*agent.Conn
	var seen []string
	c, err := s.wire(ctx, func() error {
		for _, tcp := range []string{"tcp4", "tcp6"} {
			conn, greeting, err := exchange(ctx, s.web.Place, s.till.At(tcp, shopPort), secret)
			if err != nil {
				return err
			}
			conns, seen = append(conns, conn), append(seen, "it says: "+greeting)
			if err := errors.Join(sees(greeting, s.web.At(tcp, 0).Addr()), conn.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.provedEncrypted(c, secret); err != nil {
		return err
	}
	if err := s.provedIdentities(ctx, conns[0]); err != nil {
		return err
	}
	s.out.proved("the server program sees the client's own address", seen...)
	return nil
}

// provedEncrypted checks that the pods' new traffic is TLS 1.3 to port 15008
// and nothing else.
func (s *story) provedEncrypted(c *capture.Capture, secret string) error {
	found, err := c.Contains([]byte(secret))
	if err != nil {
		return err
	}
	if found {
		return fmt.Errorf("the payload is on the wire")
	}
	flows, err := c.Flows(func(f capture.Flow) bool { return f.Client.Addr() == s.web.IP4 || f.Client.Addr() == s.web.IP6 })
	if err != nil {
		return err
	}
	var evidence []string
	for _, f := range flows {
		t := f.TLS()
		if f.Server.Port() != hbonePort || !t.Only || t.Version != tls.VersionTLS13 {
			return fmt.Errorf("pod %v opens a connection that is not TLS 1.3 to port %d: %v: %+v", s.web, hbonePort, f, t)
		}
		evidence = append(evidence, fmt.Sprintf("%v -> %v  ServerHello selects 0x0304, %d records of ciphertext",
			f.Client, f.Server, t.Records[capture.ApplicationData]), dump(lastRecord(f.Up)))
	}
	if len(flows) != 2 {
		return fmt.Errorf("on the wire are %d tunnels of pod %v, want one over IPv4 and one over IPv6", len(flows), s.web)
	}
	s.out.proved("new connections are TLS 1.3 to port 15008; the payload is not found on the wire", evidence...)
	return nil
}

// lastRecord is the beginning of the last TLS record of application data.
func lastRecord(stream []byte) []byte {
	i := max(bytes.LastIndex(stream, []byte{capture.ApplicationData, 3, 3}), 0)
	return stream[i:min(i+32, len(stream))]
}

// sees checks that the server named the client's own address.
func sees(greeting string, client netip.Addr) error {
	peer, err := netip.ParseAddrPort(strings.TrimPrefix(greeting, "you are "))
	if err != nil || peer.Addr() != client {
		return fmt.Errorf("the server says %q: want the client's own address %v", greeting, client)
	}
	return nil
}

// provedIdentities checks both nodes' access records of a connection.
func (s *story) provedIdentities(ctx context.Context, conn *agent.Conn) error {
	web, till := s.web.SPIFFEID("cluster.local"), s.till.SPIFFEID("cluster.local")
	out, err := s.lab.Nodes[0].Access(ctx, func(r lab.Record) bool {
		return r.Get("direction") == "outbound" && r.AddrPort("src.addr") == conn.Local()
	})
	if err != nil {
		return err
	}
	in, err := s.lab.Nodes[1].Access(ctx, func(r lab.Record) bool {
		return r.Get("direction") == "inbound" && r.AddrPort("dst.hbone_addr") == conn.Peer()
	})
	if err != nil {
		return err
	}
	for _, r := range []lab.Record{out, in} {
		if r.Get("result") != "ok" || r.Get("src.identity") != web || r.Get("dst.identity") != till {
			return fmt.Errorf("want a good connection of %s to %s in the access log: %v", web, till, r)
		}
	}
	s.out.proved("both ends proved who they are, says the access log of both nodes",
		fmt.Sprintf("node1 outbound  %s -> %s", out.Get("src.identity"), out.Get("dst.identity")),
		fmt.Sprintf("node2 inbound   %s -> %s", in.Get("src.identity"), in.Get("dst.identity")))
	return nil
}
