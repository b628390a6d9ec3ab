// SPDX-License-Identifier: Apache-2.0

// Command culvert-cni is the chained CNI plugin of the Culvert mesh, and what
// installs it. A container runtime runs the plugin, without arguments, with
// CNI_COMMAND in the environment and a config on stdin.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/culvert-mesh/culvert/cni"
)

const usage = `Usage: culvert-cni [-version]
       culvert-cni install [flags]
       culvert-cni uninstall [flags]

A chained CNI plugin: container runtimes run it with CNI_COMMAND in the
environment and its config on stdin. It belongs last in the list of plugins:
install puts it there and keeps it there, uninstall takes it away.
`

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "install":
			runInstall(os.Args[2:])
			return
		case "uninstall":
			runUninstall(os.Args[2:])
			return
		}
	}
	plugin()
}

func plugin() {
	flags := flag.NewFlagSet("culvert-cni", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // misused says what is wrong
	version := flags.Bool("version", false, "print the version and exit")
	err := flags.Parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
	case err != nil:
		misused(err)
	case *version:
		fmt.Println("culvert-cni", cni.Version())
	case flags.NArg() > 0:
		misused(fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	default:
		os.Exit(cni.Main())
	}
}

func misused(err error) {
	fmt.Fprintf(os.Stderr, "culvert-cni: %v\nculvert-cni: hint: see culvert-cni -h\n", err)
	os.Exit(2)
}
