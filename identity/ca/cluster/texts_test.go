// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"testing"

	"github.com/culvert-mesh/culvert/identity/ca"
)

func TestReplicasPutTextsSideBySide(t *testing.T) {
	s := startServer(t)
	one, two := must(NewTexts(s.config(), namespace+"/texts")), must(NewTexts(s.config(), namespace+"/texts"))
	wants := func(want map[string][]byte) {
		t.Helper()
		if got, err := two.All(t.Context()); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	put := func(in *Texts, texts map[string][]byte) {
		t.Helper()
		if err := in.Put(t.Context(), texts); err != nil {
			t.Error(err)
		}
	}
	wants(nil) // there is no ConfigMap
	put(one, map[string][]byte{"a": []byte("1"), "gone": nil})
	put(two, map[string][]byte{"b": []byte("2")})
	put(one, map[string][]byte{"a": []byte("3")})
	wants(map[string][]byte{"a": []byte("3"), "b": []byte("2")})
	put(one, map[string][]byte{"b": nil, "c": []byte("4")})
	wants(map[string][]byte{"a": []byte("3"), "c": []byte("4")})
	s.stop()
	if _, err := one.All(t.Context()); !errors.Is(err, ca.ErrUnreachable) {
		t.Errorf("an API server that is away: %v", err)
	}
	if err := one.Put(t.Context(), map[string][]byte{"a": nil}); !errors.Is(err, ca.ErrUnreachable) {
		t.Errorf("an API server that is away: %v", err)
	}
}
