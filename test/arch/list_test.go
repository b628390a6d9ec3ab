// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/culvert-mesh/culvert" // the product's
	root   = "../.."                           // of the repository, from this package
)

// goPackage is what we read of go list -json. Imports are as written.
type goPackage struct {
	ImportPath, Name                   string
	Imports, TestImports, XTestImports []string
}

// listPackages returns the packages of all modules by their path from the root.
// What does not compile is the compiler's to report.
func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	packages := make(map[string]goPackage)
	for dir := range listModules(t) {
		cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "./...")
		cmd.Dir = filepath.Join(root, dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list in %s: %v\n%s", dir, err, &stderr)
		}
		for dec := json.NewDecoder(bytes.NewReader(out)); ; {
			var p goPackage
			if err := dec.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			packages[fromRoot(p.ImportPath)] = p
		}
	}
	return packages
}

// fromRoot returns a package's path from the root of the repository. Modules in
// it are called by their folders.
func fromRoot(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

// within returns the imports that are of this repository, each once.
func within(lists ...[]string) []string {
	var names []string
	for _, path := range slices.Concat(lists...) {
		if strings.HasPrefix(path, module+"/") {
			names = append(names, fromRoot(path))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// outside returns the imports that are of other modules.
func outside(list []string) []string {
	var paths []string
	for _, path := range list {
		first, _, _ := strings.Cut(path, "/")
		if strings.Contains(first, ".") && !strings.HasPrefix(path, module) {
			paths = append(paths, path)
		}
	}
	return paths
}
