// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// What operators measure and keep: culvert bench cluster makes its pods, gets rows of pods in
// the mesh and beside it, and leaves nothing. The ledgers of both replicas of the CA come
// through port-forwards, and are whole by the CA's own roots.
func TestTheOperatorMeasuresAClusterAndKeepsItsLedgers(t *testing.T) {
	m := useMesh(t)
	admin := cluster.Kubeconfig(m.name)
	t.Cleanup(func() { _, _ = m.kubectl("delete", "namespace", "culvert-bench", "--ignore-not-found", "--wait=false") })
	if out, code := m.culvert(admin, "bench", "cluster"); code == 0 || !strings.Contains(out, "--yes does it") {
		t.Errorf("bench cluster without --yes: exit code %d\n%s", code, out)
	}
	if out, code := m.culvert(admin, "bench", "cluster", "--yes", "--against=istio"); code == 0 || !strings.Contains(out, "no DaemonSet ztunnel and istio-cni-node of Istio") {
		t.Errorf("bench cluster beside an Istio that is not there: exit code %d\n%s", code, out)
	}
	if left, err := m.kubectl("get", "namespace", "culvert-bench-istio"); err == nil {
		t.Errorf("it has made %s", left)
	}
	out, code := m.culvert(admin, "bench", "cluster", "--yes", "--rows=bulk-1,connect-1", "--per-row=4s", "--turns=1", "--output=json")
	m.wantRows(out, code)
	if left, err := m.kubectl("get", "namespace", "culvert-bench"); err == nil {
		t.Errorf("bench cluster has left %s", left)
	}
	if out, code := m.culvert(admin, "bench", "clean"); code != 0 || !strings.Contains(out, "there is no namespace culvert-bench") {
		t.Errorf("bench clean after it: exit code %d\n%s", code, out)
	}

	kept, err := m.kubectl("-n", "culvert-system", "get", "configmap", "culvert-ledger-checkpoint", "-o", "json")
	if err != nil {
		t.Fatalf("the ledgers' checkpoints outside of their disks: %v\n%s", err, kept)
	}
	dir := filepath.Join(t.TempDir(), "ledger")
	roots := filepath.Join(t.TempDir(), "roots.pem")
	out, code = m.culvert(admin, "audit", "fetch", dir, "--output=json")
	var copied struct {
		Replicas []fetchedLedger
	}
	if err := json.Unmarshal([]byte(out), &copied); err != nil || code != 0 || len(copied.Replicas) != 2 {
		t.Fatalf("audit fetch: %v, exit code %d\n%s", err, code, out)
	}
	for _, r := range copied.Replicas {
		if r.Problem != "" || r.Files == 0 {
			t.Errorf("audit fetch: %+v", r)
		}
	}
	if out, code := m.culvert(admin, "ca", "export", "--to", roots); code != 0 {
		t.Fatal(out)
	}
	if out, code := m.culvert(admin, "audit", "verify", dir, "--roots", roots); code != 0 {
		t.Errorf("audit verify of what was fetched: exit code %d\n%s", code, out)
	}
	m.reachTheirCheckpoints(kept, dir, roots, func(replica string) bool {
		return slices.ContainsFunc(copied.Replicas, func(r fetchedLedger) bool { return r.Replica == replica })
	})
	const meshed = "spiffe://cluster.local/ns/culvert-bench/sa/default" // the pods that were measured
	if out, code := m.culvert(admin, "audit", "who-had", meshed, "--at="+time.Now().UTC().Format(time.RFC3339), dir); code != 0 || !strings.Contains(out, "node1") {
		t.Errorf("audit who-had %s: exit code %d\n%s", meshed, code, out)
	}
	if out, code := m.culvert(admin, "audit", "fetch", dir); code == 0 || !strings.Contains(out, "is not empty") {
		t.Errorf("audit fetch over a copy: exit code %d\n%s", code, out)
	}
}

type fetchedLedger struct {
	Replica, Problem string
	Files            int
}

// reachTheirCheckpoints wants the ledgers of replicas that run to come as far as the ConfigMap
// said before they were fetched. Those of pods that are gone went with them.
func (m *installed) reachTheirCheckpoints(kept, dir, roots string, runs func(replica string) bool) {
	m.t.Helper()
	var object struct {
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal([]byte(kept), &object); err != nil {
		m.t.Fatal(err)
	}
	for key := range object.Data {
		if replica, _, _ := strings.Cut(key, "."); !runs(replica) {
			delete(object.Data, key)
		}
	}
	if len(object.Data) != 2 {
		m.t.Errorf("checkpoints of two replicas: %s", kept)
	}
	text, err := json.Marshal(object)
	if err != nil {
		m.t.Fatal(err)
	}
	anchors := filepath.Join(m.t.TempDir(), "anchors.json")
	if err := os.WriteFile(anchors, text, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if out, code := m.culvert(cluster.Kubeconfig(m.name), "audit", "verify", dir, "--roots", roots, "--anchors", anchors); code != 0 {
		m.t.Errorf("audit verify by the checkpoints outside: exit code %d\n%s", code, out)
	}
}

// wantRows wants each row of a measurement to have a value for pods in the mesh and beside
// it, on one node and between both.
func (m *installed) wantRows(out string, code int) {
	m.t.Helper()
	var report struct {
		Rows []struct {
			Results []struct {
				Target, Problem string
				Median          float64
			}
		}
	}
	from := max(0, strings.Index(out, "{"))
	if err := json.NewDecoder(strings.NewReader(out[from:])).Decode(&report); err != nil || code != 0 || len(report.Rows) != 2 {
		m.t.Fatalf("bench cluster: %v, exit code %d\n%s", err, code, out)
	}
	want := []string{"mesh-one-node", "mesh-two-nodes", "plain-one-node", "plain-two-nodes"}
	for i, row := range report.Rows {
		var targets []string
		for _, r := range row.Results {
			targets = append(targets, r.Target)
			if r.Problem != "" || r.Median <= 0 {
				m.t.Errorf("row %d, %s: %v %s", i, r.Target, r.Median, r.Problem)
			}
		}
		if slices.Sort(targets); !slices.Equal(targets, want) {
			m.t.Errorf("row %d has %v", i, targets)
		}
	}
}
