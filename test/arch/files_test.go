// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const spdx = "// SPDX-License-Identifier: Apache-2.0"

var (
	drawers  = []string{"pkg", "common", "util", "utils", "helper", "helpers", "misc", "lib"}
	suffixes = []string{"Manager", "Helper", "Util", "Info", "Data", "Impl", "Wrapper"}
)

// goFile is one hand-written Go file.
type goFile struct {
	path string // from the root
	text string
	ast  *ast.File
	fset *token.FileSet
}

func (f goFile) dir() string { return filepath.ToSlash(filepath.Dir(f.path)) }
func (f goFile) test() bool  { return strings.HasSuffix(f.path, "_test.go") }
func (f goFile) where(n ast.Node) string {
	at := f.fset.Position(n.Pos())
	at.Filename = f.path
	return at.String()
}

// walk calls visit with every file of the tree, but for what git ignores and
// what is data.
func walk(t *testing.T, visit func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "bin" || d.Name() == "testdata" || rel != "." && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		visit(rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// goFiles returns all but generated files, whose generators know no better.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	walk(t, func(path string) {
		if filepath.Ext(path) != ".go" {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if !ast.IsGenerated(parsed) {
			files = append(files, goFile{path, string(text), parsed, fset})
		}
	})
	return files
}

func TestEveryFileNamesItsLicenseFirst(t *testing.T) {
	for _, f := range goFiles(t) {
		if first, _, _ := strings.Cut(f.text, "\n"); first != spdx {
			t.Errorf("%s:1: want %q, got %q", f.path, spdx, first)
		}
	}
	walk(t, func(path string) {
		if ext := filepath.Ext(path); ext != ".c" && ext != ".h" {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if first, _, _ := strings.Cut(string(text), "\n"); !strings.Contains(first, "SPDX-License-Identifier: ") {
			t.Errorf("%s:1: want an SPDX-License-Identifier comment, got %q", path, first)
		}
	})
}

func TestEveryPackageHasOneDoc(t *testing.T) {
	docs := make(map[string][]string) // by directory: files with a package doc
	names := make(map[string]string)
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f.ast.Name.Name, "_test") {
			continue // the same package, seen from outside
		}
		names[f.dir()] = f.ast.Name.Name
		if f.ast.Doc != nil {
			docs[f.dir()] = append(docs[f.dir()], f.path)
		}
	}
	for dir, name := range names {
		switch found := docs[dir]; len(found) {
		case 0:
			t.Errorf("package %s in %s has no doc: say in one file what it is for", name, dir)
		case 1:
		default:
			t.Errorf("package %s has %d docs, want one: %s", name, len(found), strings.Join(found, ", "))
		}
	}
}

var listedFile = regexp.MustCompile(`(?m)^//\t([a-z0-9_]+\.go) `)

// A package doc that lists files is the map of a large package, and no map of another.
func TestADocThatListsFilesListsAll(t *testing.T) {
	files := make(map[string][]string) // by directory, but for tests
	for _, f := range goFiles(t) {
		if name := filepath.Base(f.path); !f.test() && name != "doc.go" {
			files[f.dir()] = append(files[f.dir()], name)
		}
	}
	for dir, present := range files {
		doc, err := os.ReadFile(filepath.Join(root, dir, "doc.go"))
		if err != nil {
			continue
		}
		var listed []string
		for _, line := range listedFile.FindAllSubmatch(doc, -1) {
			listed = append(listed, string(line[1]))
		}
		if len(listed) == 0 {
			continue
		}
		slices.Sort(listed)
		slices.Sort(present)
		if !slices.Equal(listed, present) {
			t.Errorf("%s/doc.go lists %v, there are %v", dir, listed, present)
		}
	}
}

func TestNoFolderIsADrawer(t *testing.T) {
	for name, p := range listPackages(t) {
		for part := range strings.SplitSeq(name, "/") {
			if slices.Contains(drawers, part) || slices.Contains(drawers, p.Name) {
				t.Errorf("package %s: a folder is a noun of the data path, not %q", name, part)
			}
		}
	}
}

func TestNoTypeIsNamedByAnEmptySuffix(t *testing.T) {
	for _, f := range goFiles(t) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			for _, suffix := range suffixes {
				if strings.HasSuffix(spec.Name.Name, suffix) {
					t.Errorf("%s: type %s: the suffix %s says nothing, name what it is", f.where(spec), spec.Name, suffix)
				}
			}
			return true
		})
	}
}

func TestOnlyNetnsLocksThreads(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.dir() == "ztunnel/netns" || strings.HasPrefix(f.path, "test/") || strings.HasPrefix(f.path, "bench/") || f.test() {
			continue
		}
		for _, call := range calls(f, "runtime", "LockOSThread") {
			t.Errorf("%s: runtime.LockOSThread: only ztunnel/netns enters namespaces, so that a thread never stays in one", f.where(call))
		}
	}
}

func TestNoTestSkipsWithoutSayingWhy(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.test() {
			continue
		}
		for _, call := range append(calls(f, "t", "Skip"), calls(f, "t", "SkipNow")...) {
			if len(call.Args) == 0 {
				t.Errorf("%s: a bare skip: use env.Need, or say why", f.where(call))
			}
		}
	}
}

// calls returns the calls of x.sel in f.
func calls(f goFile, x, sel string) []*ast.CallExpr {
	var found []*ast.CallExpr
	ast.Inspect(f.ast, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == sel {
			if id, ok := s.X.(*ast.Ident); ok && id.Name == x {
				found = append(found, call)
			}
		}
		return true
	})
	return found
}
