// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

func TestTheDumpSaysWhatItsHostIsLike(t *testing.T) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	hybrid := filepath.Join(root, "unified")
	for _, dir := range []string{hybrid, filepath.Join(root, "cpu")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	some := []redirect.Other{{ID: 7, Name: "redir", Kind: "sk_msg"}}
	h := lookAtHost(root, func() ([]redirect.Other, error) { return some, nil })
	if h.Kernel != strings.TrimSpace(string(release)) || h.Cgroups != "v2" || !slices.Equal(h.Others, some) || h.Problem != "" {
		t.Errorf("%+v", h)
	}
	h = lookAtHost(hybrid, func() ([]redirect.Other, error) { return nil, errors.New("not permitted") })
	if h.Cgroups != "hybrid" || h.Others == nil || h.Problem != "not permitted" {
		t.Errorf("%+v", h)
	}
}
