// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// workerCommand is the first argument of a worker: this program, started in a
// pod's netns and cgroup, since those are what the programs go by.
const workerCommand = "worker"

// order is what a worker is told: to open so many connections.
type order struct {
	Family   string
	Connects int
}

// answer is what it says, once when it is set up and then to each order.
type answer struct {
	Samples []sample
	Error   string
}

func workerMain(args []string) int {
	var row, socket, ip4, ip6 string
	var p pod
	flags := flag.NewFlagSet(workerCommand, flag.ContinueOnError)
	flags.StringVar(&row, "row", "", "row to measure")
	flags.StringVar(&socket, "socket", "", "unix socket that gives orders")
	flags.StringVar(&ip4, "ip4", "", "the pod's IPv4 address")
	flags.StringVar(&ip6, "ip6", "", "the pod's IPv6 address")
	flags.StringVar(&p.bpffs, "bpffs", "", "directory for pins")
	flags.StringVar(&p.cgroup, "cgroup", "", "cgroup to attach to")
	err := flags.Parse(args)
	if err == nil {
		p.addrs, err = parseAddrs(ip4, ip6)
	}
	if err == nil {
		err = p.work(row, socket)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func parseAddrs(ip4, ip6 string) (map[string]netip.Addr, error) {
	four, err4 := netip.ParseAddr(ip4)
	six, err6 := netip.ParseAddr(ip6)
	return map[string]netip.Addr{"tcp4": four, "tcp6": six}, errors.Join(err4, err6)
}

// work sets the row up and follows orders until there are no more.
func (p pod) work(row, socket string) (err error) {
	debug.SetGCPercent(-1) // it would run beside what is measured
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	say := json.NewEncoder(conn)
	if p.ns, err = netns.Open("/proc/self/ns/net"); err != nil {
		return err
	}
	defer p.ns.Close()
	courses, undo, err := p.setUp(context.Background(), row)
	if err := say.Encode(newAnswer(nil, err)); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	return errors.Join(p.follow(json.NewDecoder(conn), say, courses), undo())
}

func (p pod) follow(orders *json.Decoder, say *json.Encoder, courses map[string]course) error {
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var samples []sample
		err := p.ns.Do(func() (err error) { // for its locked thread: we are in there anyway
			samples, err = courses[o.Family].run(o.Connects)
			return err
		})
		if err := say.Encode(newAnswer(samples, err)); err != nil {
			return err
		}
	}
}

func newAnswer(samples []sample, err error) answer {
	a := answer{Samples: samples}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}
