// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// buildOld builds the ztunnel of another commit, in a worktree of its own. Without a
// commit there is no program.
func buildOld(ctx context.Context, commit string) (program string, remove func() error, err error) {
	if commit == "" {
		return "", func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp("", "attacks")
	if err != nil {
		return "", nil, err
	}
	tree := filepath.Join(dir, "tree")
	remove = func() error {
		ctx := context.WithoutCancel(ctx)
		return errors.Join(command(ctx, ".", "git", "worktree", "remove", "--force", tree), os.RemoveAll(dir))
	}
	program = filepath.Join(dir, "ztunnel")
	err = command(ctx, ".", "git", "worktree", "add", "--quiet", "--detach", tree, commit)
	if err == nil {
		err = command(ctx, tree, "go", "build", "-o", program, "./cmd/ztunnel")
	}
	if err != nil {
		err = errors.Join(err, remove())
	}
	return program, remove, err
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}
