// SPDX-License-Identifier: Apache-2.0

// Command ztunnel is Culvert's node agent: it carries the connections of the
// node's enrolled pods in mutual TLS. This file only turns flags into a
// ztunnel.Config.
package main

import (
	"context"
	"os"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/ztunnel"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "uninstall" {
		uninstall(os.Args[2:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "renew" {
		renew(os.Args[2:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		probe(os.Args[2:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "verify" {
		verify(os.Args[2:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "log" {
		logging(os.Args[2:])
		return
	}
	p := program.New("ztunnel", usage)
	cfg := ztunnel.Config{Level: p.Level}
	define(p.Flags, &cfg)
	p.Parse(os.Args[1:], func() error { return complete(&cfg) })
	cfg.Log, cfg.LogDropped = p.Log, p.Dropped
	p.Run(func(ctx context.Context) error { return ztunnel.Run(ctx, cfg) }, hint)
}

func hint(error) string {
	if os.Geteuid() != 0 {
		return "it loads BPF and enters the pods' network namespaces: run it as root"
	}
	return ""
}
