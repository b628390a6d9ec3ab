// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// moduleKey names all that decides what is built of a module of its own: how, its files, Go
// and its flags.
func moduleKey(ctx context.Context, own, how string, files ...string) (string, error) {
	version, err := goCommand(ctx, own, "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOVERSION: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s %q %s\n", version, runtime.GOARCH, flags, how)
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(own, file))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", file, len(text), text)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:8]), nil
}

// goBuild builds what more names in a module into output, a program or a directory.
func goBuild(ctx context.Context, module, cgo, output string, more ...string) error {
	cmd := goCommand(ctx, module, slices.Concat([]string{"build", "-o", output}, flags, more)...)
	cmd.Env = append(cmd.Env, "CGO_ENABLED="+cgo, "CGO_CFLAGS=-O0") // C that tests need not be fast
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", module, err, said)
	}
	return nil
}

// moduleSource is the directory of a module that the module in own requires.
func moduleSource(ctx context.Context, own, path string) (string, error) {
	out, err := goCommand(ctx, own, "mod", "download", "-json", path).Output()
	var module struct{ Dir, Error string }
	if err = errors.Join(err, json.Unmarshal(out, &module)); err != nil {
		return "", fmt.Errorf("go mod download %s: %w\n%s", path, err, module.Error)
	}
	return module.Dir, nil
}

// joined are the files of a pattern as one stream of YAML.
func joined(pattern string) ([]byte, error) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there is no %s: %v", pattern, err)
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
