// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/culvert-mesh/culvert/deploy/oci"
)

// product is one image of Culvert.
type product struct {
	program  string // below cmd, and in the image's name
	user     string // default: root
	licenses string
}

// products are Culvert's images. ztunnel and culvert-cni change the node, as root only
// can; the CA needs no privilege, and no user of the node has its number.
var products = []product{
	{program: "ztunnel", licenses: "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"}, // with its BPF programs
	{program: "culvert-cni", licenses: "Apache-2.0"},
	{program: "culvert-identity", user: "65532:65532", licenses: "Apache-2.0"},
	{program: "culvert", user: "65532:65532", licenses: "Apache-2.0 AND MIT AND ISC"}, // with the script of its map
}

// build builds all products from the sources at root, and writes each to an archive in
// dir, with what it is made of beside it. It tells their names and digests.
func build(ctx context.Context, root, dir string, archs []string, told io.Writer) error {
	programs, err := os.MkdirTemp("", "culvert-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(programs)
	for _, arch := range archs {
		if err := compile(ctx, root, filepath.Join(programs, arch), arch); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range products {
		files := make(map[string]string)
		for _, arch := range archs {
			files[arch] = filepath.Join(programs, arch, p.program)
		}
		image := oci.Image{
			Name:    "localhost/culvert/" + p.program + ":dev",
			Program: p.program,
			Files:   files,
			User:    p.user,
			Labels: map[string]string{
				"org.opencontainers.image.title":    p.program,
				"org.opencontainers.image.licenses": p.licenses,
			},
		}
		if err := write(filepath.Join(dir, p.program+".tar"), image, told); err != nil {
			return err
		}
		if err := describeAll(dir, p, files); err != nil {
			return err
		}
	}
	return nil
}

// describeAll writes what the program is made of, for each architecture.
func describeAll(dir string, p product, files map[string]string) error {
	for arch, file := range files {
		text, err := describe(file, p)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p.program+"."+arch+".spdx.json"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compile builds all programs for an architecture. Neither the path of the sources nor
// their commit gets into them, nor what a machine's Go would choose by default: whoever
// builds the same sources with the Go that go.mod names gets the same bytes.
func compile(ctx context.Context, root, dir, arch string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + "/"}
	for _, p := range products {
		args = append(args, "./cmd/"+p.program)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=auto", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build for %s: %w\n%s", arch, err, out)
	}
	return nil
}
