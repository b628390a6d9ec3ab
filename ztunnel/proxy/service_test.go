// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestAnAppStaysWithOneEndpointOfAServiceWithSessionAffinity(t *testing.T) {
	mesh := meshOf(1, 1)
	addrs := make([]netip.AddrPort, 8)
	for i := range addrs {
		addrs[i] = netip.AddrPortFrom(legacyAddr, echo(t, legacyAddr))
	}
	mesh.Services[1] = service("legacy", legacyVIP, addrs...)
	mesh.Services[1].Affinity = time.Hour
	b := newBench(t, registryOf(mesh), "web")
	b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return legacyVIP, nil }
	to := b.serve(webAddr, Outbound{b.Pod}.Serve)
	seen := map[netip.AddrPort]int{}
	for range 16 {
		app := connect(t, webAddr, to)
		send(t, app, "hello")
		expect(t, app, "hello")
		app.CloseWrite()
		expectEOF(t, app)
		dialled := <-b.dialled
		seen[dialled[1]]++
		b.record(OK)
	}
	if len(seen) != 1 {
		t.Errorf("16 connections of one app went to %v", seen)
	}
}

func TestAnInternalServiceWithNobodyOnTheNodeIsRefusedAndTheRecordSaysWhy(t *testing.T) {
	mesh := meshOf(1, 1)
	mesh.Services[1].InternalLocal = true
	b := newBench(t, registryOf(mesh), "web")
	b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return legacyVIP, nil }
	expectRefused(t, webAddr, b.serve(webAddr, Outbound{b.Pod}.Serve))
	if why, _ := b.record(Dial)["error"].(string); !strings.Contains(why, "service shop/legacy has internalTrafficPolicy Local") {
		t.Errorf("refused because of %q", why)
	}
	b.nobodyDialled()
}
