// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A file's own time is that of its last copy: only what the node said counts.
func TestAFileIsAsOldAsItSays(t *testing.T) {
	dir := t.TempDir()
	said := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for name, text := range map[string]string{
		"a.json": `{"time": "2026-11-26T12:00:00Z", "config": {"NodeName": "node1"}}`,
		"b.json": `{"config": {"NodeName": "node2"}}`,
		"c.json": `{"time": "yesterday"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nodes, err := Files(dir)
	if err != nil || len(nodes) != 3 {
		t.Fatalf("%+v, %v", nodes, err)
	}
	for i, want := range []time.Time{said, {}, {}} {
		if n := nodes[i]; !n.File || !n.Taken.Equal(want) || (n.Problem == "") != (i < 2) {
			t.Errorf("%s: taken %v, want %v; problem %q", n.Name, n.Taken, want, n.Problem)
		}
	}
}

// Files of other programs are no nodes that know nothing.
func TestAFileThatIsNoDumpSaysWhatItIs(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                              "it names no node",
		`{"name": "web", "version": "1"}`: "it names no node",
		`{"version": {"version": "1.29"}, "workloads": [], "policies": []}`:   "it is of Istio's ztunnel",
		`{"staticConfig": {}, "workloads": {"10.0.0.1": {}}, "policies": {}}`: "it is of Istio's ztunnel",
		`{"config": {"NodeName": "node1"}, "workl`:                            "unexpected end of JSON input",
		``:     "unexpected end of JSON input",
		`null`: "it names no node",
		`[]`:   "cannot unmarshal array",
	} {
		path := filepath.Join(t.TempDir(), "a.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		nodes, err := Files(path)
		if err != nil || len(nodes) != 1 || !strings.Contains(nodes[0].Problem, want) {
			t.Errorf("%s: %+v, %v; want %q", text, nodes, err, want)
		}
	}
}
