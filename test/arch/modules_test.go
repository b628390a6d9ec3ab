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

// A package that no module lists would be seen by no rule here.
func TestEveryPackageIsListed(t *testing.T) {
	packages := listPackages(t)
	for _, f := range goFiles(t) {
		if _, listed := packages[f.dir()]; !listed {
			t.Errorf("%s is in no package that go list finds", f.path)
		}
	}
}

// A benchmark of other versions than the product's would measure another product.
func TestModulesRequireTheProductsVersions(t *testing.T) {
	modules := listModules(t)
	product := make(map[string]string)
	for _, r := range modules["."].Require {
		product[r.Path] = r.Version
	}
	for _, r := range modules["bench"].Require {
		if want, shared := product[r.Path]; shared && r.Version != want {
			t.Errorf("bench/go.mod requires %s %s, go.mod %s", r.Path, r.Version, want)
		}
	}
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
