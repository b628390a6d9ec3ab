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

// certManager is the module whose controller issues certificates.
const certManager = "github.com/cert-manager/cert-manager"

// CertManager returns the directory of cert-manager's controller, certmanager, and of its
// kinds, kinds.yaml. They are built and kept as those of Build, from a module of their own,
// so that the cluster's programs need not be built anew with each version of it. module is
// the directory of this module.
func CertManager(ctx context.Context, module string, out io.Writer) (string, error) {
	own := filepath.Join(module, "certmanager")
	key, err := moduleKey(ctx, own, "", "go.mod", "go.sum", "main.go")
	if err != nil {
		return "", err
	}
	return cached("certmanager", key, func(dir string) error {
		return buildCertManager(ctx, own, dir, out)
	})
}

// buildCertManager builds the controller, and then gives its directory the name dir.
func buildCertManager(ctx context.Context, own, dir string, out io.Writer) error {
	unfinished := dir + unfinishedSuffix
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	start := time.Now()
	if err := goBuild(ctx, own, "0", unfinished+"/", "-ldflags=-s -w", "."); err != nil {
		return err
	}
	kinds, err := kinds(ctx, own)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(unfinished, "kinds.yaml"), kinds, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "built cert-manager in %.0f s\n", time.Since(start).Seconds())
	return os.Rename(unfinished, dir)
}

// kinds are the CustomResourceDefinitions of the module.
func kinds(ctx context.Context, own string) ([]byte, error) {
	dir, err := moduleSource(ctx, own, certManager)
	if err != nil {
		return nil, err
	}
	return joined(filepath.Join(dir, "deploy/crds/*.yaml"))
}
