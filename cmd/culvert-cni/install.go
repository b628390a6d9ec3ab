// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/cni"
	"github.com/culvert-mesh/culvert/cni/install"
)

// itself is this program's own file, also when the one it was started from has
// been replaced.
const itself = "/proc/self/exe"

const installUsage = `Usage: culvert-cni install [flags]

Puts this program among the node's CNI plugins, and its entry last into the list
of plugins that pods are started with; waits for the primary CNI's config if
there is none yet; and restores both when another program takes them away. It
runs until SIGTERM or SIGINT, and leaves both in place then: culvert-cni uninstall
takes them away. Needs write access to both directories, and no other privilege.

Flags:
`

// installation is what the flags of install say.
type installation struct {
	install  install.Config
	settings cni.Settings
	metrics  string
}

func (c *installation) define(flags *flag.FlagSet) {
	places(flags, &c.install)
	program.Var(flags, &c.metrics, "metrics-address", ":15022", "`address` for /metrics and /healthz/ready", program.Listen)
	program.Var(flags, &c.settings.Socket, "socket", "", "`path` of ztunnel's enroll socket on the node, for the entry (default the plugin's: /run/culvert/enroll.sock)", socket)
	program.Var(flags, &c.settings.OwnPod, "own-pod", "", "pod that starts without ztunnel, `namespace/name` or namespace/prefix-: ztunnel's own or the CA's, for the entry (default none)", ownPod)
	program.Var(flags, &c.settings.LogFile, "plugin-log", "", "`file` on the node to which the plugin logs, for the entry (default none)", absolute)
	program.Switch(flags, &c.settings.StatusStrict, "status-strict", "the node is NotReady while ztunnel is away, for the entry")
}

// places are the flags that install and uninstall share.
func places(flags *flag.FlagSet, c *install.Config) {
	program.Var(flags, &c.ConfDir, "conf-dir", "/etc/cni/net.d", "`directory` of the container runtime's CNI configs, as it is seen here", absolute)
	program.Var(flags, &c.BinDir, "bin-dir", "/opt/cni/bin", "`directory` of the container runtime's CNI plugins, as it is seen here", absolute)
}

func absolute(s string) (string, error) {
	if !filepath.IsAbs(s) {
		return "", errors.New("want an absolute path")
	}
	return program.Path(s)
}

func socket(s string) (string, error) {
	path, err := absolute(s)
	if err == nil {
		_, err = cni.Settings{Socket: path}.Entry()
	}
	return path, err
}

func ownPod(s string) (string, error) {
	_, err := cni.Settings{OwnPod: s}.Entry()
	return s, err
}

func (c *installation) complete(p *program.Program) (err error) {
	c.install.Entry, err = c.settings.Entry()
	c.install.Program, c.install.Versions, c.install.Log = itself, cni.Versions(), p.Log
	return err
}

func runInstall(args []string) {
	p := program.New("culvert-cni install", installUsage)
	var c installation
	c.define(p.Flags)
	p.Parse(args, func() error { return nil })
	p.Run(func(ctx context.Context) error {
		if err := c.complete(p); err != nil {
			return err
		}
		installer, err := install.New(c.install)
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", c.metrics)
		if err != nil {
			return fmt.Errorf("-metrics-address: %w", err)
		}
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return installer.Serve(ctx, ln) })
		group.Go(func() error { return installer.Run(ctx) })
		return group.Wait()
	}, func(error) string { return "" })
}
