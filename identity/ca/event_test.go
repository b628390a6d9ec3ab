// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"
)

// A counter that appears with its first event has no rate: an alert would not see that one.
func TestEveryReasonIsCountedFromZero(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	counted, n := NewKeeper(KeeperOptions{CA: newCA(t), Store: &Memory{}}).Events(), 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Reason" {
			return true
		}
		n++
		reason, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if count, there := counted[Reason(reason)]; err != nil || !there || count != 0 {
			t.Errorf("%s is not counted before it happens (%v)", reason, err)
		}
		return true
	})
	if n < 15 {
		t.Errorf("%d reasons are known", n)
	}
}
