// SPDX-License-Identifier: Apache-2.0

package regular

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOnlyRegularFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"short": "token", "empty": "", "limit": strings.Repeat("x", 8), "long": strings.Repeat("x", 9)} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("short", at("link")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ path, text, wrong string }{
		{at("short"), "token", ""},
		{at("link"), "token", ""}, // Kubernetes projects files as links
		{at("empty"), "", ""},
		{at("limit"), "xxxxxxxx", ""},
		{at("long"), "", "is longer than 8 bytes"},
		{at("fifo"), "", "is not a regular file"}, // and it does not wait for a writer
		{dir, "", "is not a regular file"},
		{"/dev/zero", "", "is not a regular file"},
		{at("none"), "", "no such file"},
	} {
		text, err := ReadFile(test.path, 8)
		if string(text) != test.text || (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s: %q, %v, want %q", test.path, text, err, test.wrong)
		}
	}
}
