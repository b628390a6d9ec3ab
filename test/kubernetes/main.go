// SPDX-License-Identifier: Apache-2.0

// Command cluster runs a real two-node Kubernetes on this machine, for Culvert's tests
// and for whoever wants to try it: see package cluster for how it is made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

const usage = `cluster runs a real two-node Kubernetes in namespaces of this machine (as root).

  cluster build             build its programs into the user's cache directory
  cluster up [flags]        build what is not built, and start it
  cluster install [flags]   put Culvert on it, as its chart says
  cluster down [flags]      remove it, however it ended
  cluster enter [flags] NODE COMMAND...
                            run a command on a node, "node1" or "node2"

  -images DIR               of up: where Culvert's images are (default: they are built anew)
  -cgroups v1|v2            what a node's /sys/fs/cgroup looks like: the machine's own
                            hierarchies, or cgroup2 alone (default: what the machine has)
  -name NAME                which cluster (default "culvert")
  -site 0-9                 of up: which addresses it has, so that it can be joined with others
`

func init() { runtime.LockOSThread() } // a node starts its programs on this thread: cluster.Role

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := cluster.Role(os.Args[1:])
	if err == nil {
		err = run(ctx, os.Args[1:])
	}
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "-h" {
		return flag.ErrHelp
	}
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.Usage = func() {}
	c := cluster.Config{}
	flags.StringVar(&c.Name, "name", "culvert", "")
	flags.StringVar(&c.Cgroups, "cgroups", "", "")
	flags.IntVar(&c.Site, "site", 0, "")
	built := flags.String("images", "", "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case args[0] == "build" && flags.NArg() == 0:
		_, err := build(ctx)
		return err
	case args[0] == "up" && flags.NArg() == 0:
		return up(ctx, c, *built)
	case args[0] == "install" && flags.NArg() == 0:
		if err := install(ctx, c.Name); err != nil {
			return err
		}
		fmt.Print(inviteMesh)
		return nil
	case args[0] == "down" && flags.NArg() == 0:
		return down(ctx, c.Name)
	case args[0] == "enter" && flags.NArg() > 1:
		return cluster.Enter(c.Name, flags.Arg(0), flags.Args()[1:])
	}
	return fmt.Errorf("unknown arguments %q: try -h", args)
}

func build(ctx context.Context) (string, error) {
	module, err := moduleDir()
	if err != nil {
		return "", err
	}
	dir, err := binaries.Build(ctx, module, os.Stdout)
	if err != nil {
		return "", err
	}
	_, err = binaries.CertManager(ctx, module, os.Stdout)
	return dir, err
}

// moduleDir is this module's directory: the working directory or below it.
func moduleDir() (string, error) {
	for _, dir := range []string{".", "test/kubernetes"} {
		if _, err := os.Stat(filepath.Join(dir, "kubeall")); err == nil {
			return filepath.Abs(dir)
		}
	}
	return "", errors.New("it builds what it runs: start it at the root of the repository")
}

// up starts a cluster with the images in a directory, or with new ones.
func up(ctx context.Context, c cluster.Config, built string) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes namespaces and mounts: run it as root")
	}
	module, err := moduleDir()
	if err != nil {
		return err
	}
	if c.Binaries, err = binaries.Build(ctx, module, os.Stdout); err != nil {
		return err
	}
	if c.Cgroups == "" {
		if c.Cgroups, err = cluster.DefaultCgroups(); err != nil {
			return err
		}
	}
	if built == "" {
		tmp, err := os.MkdirTemp("", "culvert-cluster-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		built = tmp
		fmt.Println("building Culvert's images and the program of test pods")
		if err := buildImages(ctx, module, built); err != nil {
			return err
		}
	}
	if c.Images, err = archives(built, c.Binaries); err != nil {
		return err
	}
	if err := cluster.Up(ctx, c, os.Stdout); err != nil {
		return err
	}
	invite(c)
	return nil
}

// buildImages builds the images that change with the sources into a directory.
func buildImages(ctx context.Context, module, dir string) error {
	if err := binaries.Culvert(ctx, module, dir); err != nil {
		return err
	}
	return binaries.Podapp(ctx, module, dir)
}

// archives returns the archives of all images that the nodes get: those that buildImages made,
// and those that programs has.
func archives(dir, programs string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("-images: %s has no image", dir)
	}
	return append(found, filepath.Join(programs, "pause.tar"), filepath.Join(programs, "coredns.tar")), nil
}

func down(ctx context.Context, name string) error {
	was, err := cluster.Down(ctx, name)
	if err == nil && !was {
		fmt.Printf("there is no cluster %s\n", name)
	}
	return err
}
