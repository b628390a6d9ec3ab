// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
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
	version, err := goCommand(ctx, own, "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOVERSION: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s %q\n", version, runtime.GOARCH, flags)
	for _, file := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(own, file))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", file, len(text), text)
	}
	return cached("certmanager", fmt.Sprintf("%x", hash.Sum(nil)[:8]), func(dir string) error {
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
	build := goCommand(ctx, own, append([]string{"build", "-ldflags", "-s -w", "-o", unfinished + "/"}, append(flags, ".")...)...)
	build.Env = append(build.Env, "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build cert-manager: %w\n%s", err, said)
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
	list := goCommand(ctx, own, "list", "-m", "-f", "{{.Dir}}", certManager)
	dir, err := list.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list -m %s: %w", certManager, err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "deploy/crds/*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("%s has no kinds: %v", certManager, err)
	}
	var all [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return bytes.Join(all, []byte("\n---\n")), nil
}
