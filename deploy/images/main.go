// SPDX-License-Identifier: Apache-2.0

// Command images makes container images as OCI archives, which registries' tools push
// and containerd imports.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/culvert-mesh/culvert/deploy/oci"
)

const usage = `images makes container images as OCI archives, and prints their digests.

  images archive -name REFERENCE -out FILE PROGRAM
        of a static program, for this machine's architecture
`

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return flag.ErrHelp
	}
	if args[0] == "archive" {
		return archive(args[1:])
	}
	return fmt.Errorf("unknown command %q: try -h", args[0])
}

func archive(args []string) error {
	flags := flag.NewFlagSet("archive", flag.ContinueOnError)
	flags.Usage = func() {}
	name := flags.String("name", "", "")
	out := flags.String("out", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *name == "" || *out == "" || flags.NArg() != 1 {
		return errors.New("archive: want -name, -out and one program")
	}
	program := flags.Arg(0)
	return write(*out, oci.Image{
		Name:    *name,
		Program: filepath.Base(program),
		Files:   map[string]string{runtime.GOARCH: program},
	})
}

// write writes the image's archive and prints its digest.
func write(path string, image oci.Image) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	digest, err := image.Write(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Println(image.Name, digest)
	return nil
}
