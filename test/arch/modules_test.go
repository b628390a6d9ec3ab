// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// goModule is what we read of a go.mod.
type goModule struct {
	Go        string
	Toolchain string
	Require   []struct{ Path, Version string }
}

// listModules returns the modules of this repository by their directory, "." for
// the product's.
func listModules(t *testing.T) map[string]goModule {
	t.Helper()
	modules := make(map[string]goModule)
	walk(t, func(path string) {
		if filepath.Base(path) != "go.mod" {
			return
		}
		out, err := exec.Command("go", "mod", "edit", "-json", filepath.Join(root, path)).Output()
		if err != nil {
			t.Fatalf("go mod edit -json %s: %v", path, err)
		}
		var m goModule
		if err := json.Unmarshal(out, &m); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		modules[filepath.ToSlash(filepath.Dir(path))] = m
	})
	return modules
}

func TestAllModulesAreBuiltByOneGo(t *testing.T) {
	modules := listModules(t)
	product := modules["."]
	if product.Toolchain == "" {
		t.Error("go.mod names no toolchain")
	}
	for dir, m := range modules {
		if m.Go != product.Go || m.Toolchain != product.Toolchain {
			t.Errorf("%s/go.mod: go %s, toolchain %s; go.mod has go %s, toolchain %s",
				dir, m.Go, m.Toolchain, product.Go, product.Toolchain)
		}
	}
}
