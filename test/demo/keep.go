// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// invite says what to try while all of it keeps running.
func (s *story) invite() {
	l, out := s.lab, s.out
	dir := l.Dir()
	app, till := s.web.App(), s.till.At("tcp4", shopPort).String()
	out.title("It keeps running. As root, in another terminal:")
	for _, try := range []struct{ what, how string }{
		{"the map, in a browser of this machine", s.address},
		{"who talks to whom, in words", s.culvert + " edges --ztunnel " + s.ztunnels},
		{"where a connection would end, and why", s.culvert + " why shop/web shop/till:8080 --ztunnel-socket " + s.sockets()},
		{"a proof that nothing of it is on a wire in plaintext", s.culvert + " verify shop/web shop/till:8080 --ztunnel-socket " + s.sockets()},
		{"a connection between the pods, and who it says you are", l.EnterScript("shop-web") + " " + app + " send " + till + " hello"},
		{"the same from outside, which STRICT refuses", l.EnterScript("outside") + " " + app + " send " + till + " hello"},
		{"a shell in a pod", l.EnterScript("shop-web")},
		{"the access log of a node", "tail -f " + l.Nodes[1].Ztunnel.Log},
		{"what a node knows", l.EnterScript("node1") + " curl -s 127.0.0.1:15000/config_dump"},
		{"its metrics", l.EnterScript("node1") + " curl -s 127.0.0.1:15020/metrics"},
		{"the wire", l.EnterScript("node2") + " tcpdump -ni eth0 -A 'tcp port 15008 or tcp port 8080'"},
		{"a ztunnel that is gone: connects are refused, never plaintext", "kill -9 " + strconv.Itoa(l.Nodes[0].Ztunnel.PID())},
		{"the cluster's objects, which each node watches; edit them", "ls " + filepath.Join(dir, "node1", "yaml")},
		{"how the programs were started, as you may start your own", fmt.Sprintf("tr '\\0' ' ' < /proc/%d/cmdline; tr '\\0' ' ' < /proc/%d/cmdline", l.Identity.PID(), l.Nodes[1].Ztunnel.PID())},
	} {
		out.line("   # %s", out.paint(dim, try.what))
		out.line("   %s\n", try.how)
	}
	out.line("   %s  or Ctrl-C ends it and cleans up.", out.paint(bold, "kill "+strconv.Itoa(os.Getpid())))
}

// sockets are those of the nodes' ztunnels that only root reaches.
func (s *story) sockets() string {
	var all []string
	for _, n := range s.lab.Nodes {
		all = append(all, filepath.Join(n.State, "admin.sock"))
	}
	return strings.Join(all, ",")
}

// eventually tries again until do succeeds, for at most 5 s.
func eventually(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("timed out"))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// dump shows bytes as they were on the wire.
func dump(data []byte) string { return strings.TrimRight(hex.Dump(data), "\n") }
