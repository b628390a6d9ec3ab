// SPDX-License-Identifier: Apache-2.0

// Command images makes container images as OCI archives, which registries' tools push
// and containerd imports.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/deploy/oci"
)

const usage = `images makes container images as OCI archives, and prints their digests.

  images build -out DIR [-arch amd64,arm64]
        Culvert's, of the sources in the working directory, each into DIR/PROGRAM.tar,
        and what each is made of into DIR/PROGRAM.ARCH.spdx.json (SPDX 2.3)
  images archive -name REFERENCE -out FILE PROGRAM
        one of a static program, for this machine's architecture
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
	if len(args) == 0 || args[0] == "-h" {
		return flag.ErrHelp
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main says what is wrong
	out := flags.String("out", "", "")
	switch args[0] {
	case "build":
		arch := flags.String("arch", "amd64,arm64", "")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		archs, err := parseArchs(*arch)
		if err != nil {
			return err
		}
		if *out == "" || flags.NArg() != 0 {
			return errors.New("build: want -out, and no arguments")
		}
		return build(context.Background(), ".", *out, archs, os.Stdout)
	case "archive":
		name := flags.String("name", "", "")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if *name == "" || *out == "" || flags.NArg() != 1 {
			return errors.New("archive: want -name, -out and one program")
		}
		return archive(*name, *out, flags.Arg(0))
	}
	return fmt.Errorf("unknown command %q: try -h", args[0])
}

func parseArchs(list string) ([]string, error) {
	archs := strings.Split(list, ",")
	for _, arch := range archs {
		if !slices.Contains([]string{"amd64", "arm64"}, arch) {
			return nil, fmt.Errorf("-arch %q: want amd64, arm64 or both", list)
		}
	}
	return archs, nil
}

func archive(name, out, program string) error {
	return write(out, oci.Image{
		Name:    name,
		Program: filepath.Base(program),
		Files:   map[string]string{runtime.GOARCH: program},
	}, os.Stdout)
}

// write writes the image's archive and tells its name and digest.
func write(path string, image oci.Image, told io.Writer) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	digest, err := image.Write(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(told, image.Name, digest)
	return err
}
