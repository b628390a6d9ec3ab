// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"
)

// Ports of the mesh's programs, where nothing else is said.
const (
	ZtunnelAdmin   = 15000 // /config_dump, on loopback
	CARequests     = 15012 // TLS
	CAMetrics      = 15014 // /metrics
	CAAdmin        = 15013 // /config_dump, on loopback
	ZtunnelMetrics = 15020 // /metrics
	ZtunnelReady   = 15021 // /healthz/ready
)

const (
	askFor  = 10 * time.Second // one program
	atATime = 16               // programs that are asked
)

// Target is one program that can be asked.
type Target struct {
	Name  string // the node's, or the address that was given
	Pod   string // namespace/name; empty outside Kubernetes
	Ready bool   // as Kubernetes says; true outside
	dial  func(ctx context.Context, port int) (net.Conn, error)
	renew func(ctx context.Context, identities []string) ([]byte, error) // nil: no way to change anything there
	probe func(ctx context.Context, q Question) ([]byte, error)          // nil: no way to have anything tried there
	level func(ctx context.Context, level string) ([]byte, error)        // as renew

	verify func(ctx context.Context, query url.Values) ([]byte, error) // a step of a trial; nil: as probe
}

// Source says which programs there are.
type Source interface {
	Ztunnels(ctx context.Context) ([]Target, error)
	CAs(ctx context.Context) ([]Target, error)
}

// Addresses is a Source of programs at known addresses.
type Addresses struct {
	Ztunnel []string // host:port of /config_dump
	CA      string   // host:port of the CA's requests; none
	CAAdmin string   // host:port of the CA's /config_dump; none
}

// Ztunnels is part of Source.
func (a Addresses) Ztunnels(context.Context) ([]Target, error) {
	var all []Target
	for _, address := range a.Ztunnel {
		at := map[int]string{ZtunnelAdmin: address}
		if machine, _, err := net.SplitHostPort(address); err == nil { // where nothing else is said
			for _, port := range []int{ZtunnelMetrics, ZtunnelReady} {
				at[port] = net.JoinHostPort(machine, strconv.Itoa(port))
			}
		}
		all = append(all, Target{Name: address, Ready: true, dial: to(at)})
	}
	return all, nil
}

// CAs is part of Source.
func (a Addresses) CAs(context.Context) ([]Target, error) {
	if a.CA == "" && a.CAAdmin == "" {
		return nil, nil
	}
	name := a.CA
	if name == "" {
		name = a.CAAdmin
	}
	return []Target{{Name: name, Ready: true, dial: to(map[int]string{CARequests: a.CA, CAAdmin: a.CAAdmin})}}, nil
}

// to dials the address that stands for a port.
func to(addresses map[int]string) func(context.Context, int) (net.Conn, error) {
	return func(ctx context.Context, port int) (net.Conn, error) {
		address := addresses[port]
		if address == "" {
			return nil, errNoAddress
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
}

var errNoAddress = fmt.Errorf("its address was not given")

// host is what a request to a port of a target's loopback is for: ztunnel answers for
// no other.
func host(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
