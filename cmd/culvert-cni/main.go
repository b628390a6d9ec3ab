// SPDX-License-Identifier: Apache-2.0

// Command culvert-cni is the chained CNI plugin of the Culvert mesh. A container
// runtime runs it, with CNI_COMMAND in the environment and a config on stdin.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/culvert-mesh/culvert/cni"
)

func main() {
	version := flag.Bool("version", false, "print the version and exit")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "Usage: culvert-cni [-version]\n\n"+
			"A chained CNI plugin: container runtimes run it with CNI_COMMAND in the\n"+
			"environment and its config on stdin. Put it last in the list of plugins.\n")
	}
	flag.Parse()
	switch {
	case *version:
		fmt.Println("culvert-cni", cni.Version())
	case flag.NArg() > 0:
		fmt.Fprintf(os.Stderr, "culvert-cni: unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	default:
		os.Exit(cni.Main())
	}
}
