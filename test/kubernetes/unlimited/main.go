// SPDX-License-Identifier: Apache-2.0

// Command unlimited runs runc without the limits of resources that it is asked for. It
// takes runc's place where the machine has the controllers cpu, memory and pids in
// cgroup v1, so that cgroup2 lacks them, and runc would fail.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "unlimited:", err)
		os.Exit(1)
	}
}

func run() error {
	if slices.Contains(os.Args, "update") {
		return nil // there is nothing to update but limits
	}
	if i := slices.Index(os.Args, "--bundle"); i > 0 && i+1 < len(os.Args) {
		if err := lift(filepath.Join(os.Args[i+1], "config.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runc := filepath.Join(filepath.Dir(self), "runc")
	return syscall.Exec(runc, append([]string{runc}, os.Args[1:]...), os.Environ())
}

// lift removes all limits from a bundle's configuration, but for those of devices: who
// may open which is no limit of resources.
func lift(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	linux, _ := config["linux"].(map[string]any)
	if resources, ok := linux["resources"].(map[string]any); ok {
		linux["resources"] = map[string]any{"devices": resources["devices"]}
	}
	text, err = json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
