// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
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
		`{"config": {"NodeName": "node1"}, "workl`:                            "it ends before its JSON does",
		``:                            "it ends before its JSON does",
		`null`:                        "it names no node",
		`[]`:                          "it is JSON, but no object: array",
		`{"config": {"NodeName": 7}}`: "config.NodeName in it is another kind of value, number",
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

// Two dumps of one node, as of before and after something, are not two nodes: the youngest
// counts, in whatever order they are read.
func TestANodeCountsOnce(t *testing.T) {
	const old, young = `{"time": "2026-11-26T12:00:00Z", "config": {"NodeName": "node1"}}`, `{"time": "2026-11-26T13:00:00Z", "config": {"NodeName": "node1"}}`
	for _, texts := range [][2]string{{old, young}, {young, old}} {
		dir := t.TempDir()
		for i, text := range texts {
			if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))+".json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		nodes, err := Files(dir)
		if err != nil || len(nodes) != 1 || nodes[0].Name != "node1" || nodes[0].Problem != "" || nodes[0].Taken.Hour() != 13 {
			t.Fatalf("%+v, %v", nodes, err)
		}
		counts, other := dir+"/b.json", dir+"/a.json"
		if texts[0] == young {
			counts, other = other, counts
		}
		if want := "node1 is found by " + counts + ", which counts, and once more by " + other; nodes[0].Twice() != want {
			t.Errorf("%q, want %q", nodes[0].Twice(), want)
		}
	}

	// Of pods of ztunnel that share a node's network only one is left.
	node := func(pod, name string) Node {
		n := Node{Target: Target{Name: name, Pod: pod}, asked: name}
		n.Dump.Config.NodeName = name
		return n
	}
	once := withoutAgain([]Node{node("culvert/ztunnel-a", "node1"), node("culvert/ztunnel-b", "node1"), node("culvert/ztunnel-c", "node2"), {Target: Target{Name: "node3"}, Problem: "away"}})
	if len(once) != 3 || once[0].Pod != "culvert/ztunnel-a" || once[1].Name != "node2" || once[2].Problem != "away" || once[0].Twice() != "" {
		t.Errorf("%+v", once)
	}

	// The first to answer may not have heard yet of any workload.
	synced := node("culvert/ztunnel-b", "node1")
	synced.Dump.Workloads = []workload.Workload{{UID: "1"}}
	for _, both := range [][]Node{{node("culvert/ztunnel-a", "node1"), synced}, {synced, node("culvert/ztunnel-a", "node1")}} {
		if once := withoutAgain(both); len(once) != 1 || len(once[0].Dump.Workloads) != 1 || once[0].Twice() != "" {
			t.Errorf("%+v", once)
		}
	}
}
