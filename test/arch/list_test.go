// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/culvert-mesh/culvert"
	root   = "../.." // of the module, from this package
)

// goPackage is what we read of go list -json. Imports are as written.
type goPackage struct {
	ImportPath, Name                   string
	Imports, TestImports, XTestImports []string
}

// listPackages returns the module's packages by their path within it. What does
// not compile is the compiler's to report.
func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	packages := make(map[string]goPackage)
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[inModule(p.ImportPath)] = p
	}
}

// inModule returns a package's path within the module.
func inModule(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

// within returns the imports that are of this module, each once.
func within(lists ...[]string) []string {
	var names []string
	for _, path := range slices.Concat(lists...) {
		if strings.HasPrefix(path, module+"/") {
			names = append(names, inModule(path))
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
