// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logKey is how keys of log records are spelt: as those of Istio's ztunnel,
// which the access record takes over.
var logKey = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$`)

// TestLogKeysHaveOneStyle looks at the constants for log keys, and at arguments
// of loggers and slog's attributes. A key is a constant of its package, so that
// all records of the package spell it the same.
func TestLogKeysHaveOneStyle(t *testing.T) {
	found := 0
	for _, f := range goFiles(t) {
		if f.test() || !slices.Contains([]string{"ztunnel", "identity", "cni", "cmd"}, strings.SplitN(f.path, "/", 2)[0]) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			for _, key := range logKeys(n) {
				found++
				if text, err := strconv.Unquote(key.Value); err != nil || !logKey.MatchString(text) {
					t.Errorf("%s: the log key %s: want lower case, with _ between words", f.where(key), key.Value)
				}
				if _, call := n.(*ast.CallExpr); call {
					t.Errorf("%s: the log key %s: want a constant of the package", f.where(key), key.Value)
				}
			}
			return true
		})
	}
	if found < 50 {
		t.Errorf("%d log keys found: this test looks in the wrong place", found)
	}
}

// logKeys are the keys that n itself gives.
func logKeys(n ast.Node) []*ast.BasicLit {
	switch n := n.(type) {
	case *ast.ValueSpec:
		return constantKeys(n)
	case *ast.CallExpr:
		sel, ok := n.Fun.(*ast.SelectorExpr)
		if !ok || len(n.Args) == 0 {
			return nil
		}
		switch on := lastName(sel.X); {
		case on == "slog" && slices.Contains([]string{"String", "Any", "Int", "Int64", "Uint64", "Bool", "Time", "Duration", "Group"}, sel.Sel.Name):
			return texts(n.Args[:1])
		case strings.EqualFold(on, "log") && sel.Sel.Name == "With":
			return everySecond(n.Args)
		case strings.EqualFold(on, "log") && slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, sel.Sel.Name):
			return everySecond(n.Args[1:])
		case strings.EqualFold(on, "log") && sel.Sel.Name == "Log" && len(n.Args) > 2:
			return everySecond(n.Args[3:])
		}
	}
	return nil
}

// constantKeys are constants named log..., key... or field....
func constantKeys(spec *ast.ValueSpec) (keys []*ast.BasicLit) {
	for i, name := range spec.Names {
		isKey := regexp.MustCompile(`^(log|key|field)[A-Z]`).MatchString(name.Name)
		if isKey && i < len(spec.Values) {
			keys = append(keys, texts(spec.Values[i:i+1])...)
		}
	}
	return keys
}

// everySecond are the keys among key, value, ..., where an attribute stands for
// both.
func everySecond(args []ast.Expr) (keys []*ast.BasicLit) {
	for i := 0; i < len(args); i++ {
		if _, attribute := args[i].(*ast.CallExpr); attribute {
			continue
		}
		keys = append(keys, texts(args[i:i+1])...)
		i++
	}
	return keys
}

func texts(args []ast.Expr) (all []*ast.BasicLit) {
	for _, arg := range args {
		if text, ok := arg.(*ast.BasicLit); ok && text.Kind == token.STRING {
			all = append(all, text)
		}
	}
	return all
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}
