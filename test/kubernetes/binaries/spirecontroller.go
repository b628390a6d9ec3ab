// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// spireController is the module of the controller that keeps SPIRE's entries.
const spireController = "github.com/spiffe/spire-controller-manager"

// SPIREController returns the directory of spire-controller-manager, a static program, and of
// its kinds, kinds.yaml. They are built and kept as those of Build, from a module of their own
// with the versions of Kubernetes' libraries that upstream builds it with: it does not compile
// with those of SPIRE. module is the directory of this module.
func SPIREController(ctx context.Context, module string, out io.Writer) (string, error) {
	own := filepath.Join(module, "spirecontroller")
	key, err := moduleKey(ctx, own, "", "go.mod", "go.sum")
	if err != nil {
		return "", err
	}
	return cached("spirecontroller", key, func(dir string) error { return buildSPIREController(ctx, own, dir, out) })
}

// buildSPIREController builds the program, and then gives its directory the name dir.
func buildSPIREController(ctx context.Context, own, dir string, out io.Writer) error {
	unfinished := dir + unfinishedSuffix
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	start := time.Now()
	program := filepath.Join(unfinished, "spire-controller-manager")
	if err := goBuild(ctx, own, "0", program, "-ldflags=-s -w", spireController+"/cmd"); err != nil {
		return err
	}
	source, err := moduleSource(ctx, own, spireController)
	if err != nil {
		return err
	}
	// Not controllermanagerconfigs: that is the kind of its configuration, which is a file.
	kinds, err := joined(filepath.Join(source, "config/crd/bases/spire.spiffe.io_cluster*.yaml"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(unfinished, "kinds.yaml"), kinds, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "built spire-controller-manager in %.0f s\n", time.Since(start).Seconds())
	return os.Rename(unfinished, dir)
}
