// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/speed"
	"github.com/culvert-mesh/culvert/test/lab"
)

// What the mesh costs, as an operator asks: a pod measures one of the mesh on another node
// and one that is not in it. No number is judged, only that they are there.
func TestAnOperatorMeasuresWhatTheMeshCosts(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	program, err := filepath.Abs("../../bin/culvert")
	s.must(err)
	client, meshed := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	plain := s.pod(s.two, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
	for _, pod := range []*lab.Pod{meshed, plain} {
		serve, err := pod.Start("bench", program, "bench", "serve")
		s.must(err)
		t.Cleanup(func() { serve.Kill() })
	}
	s.must(client.AwaitEnrolled(s.ctx))
	s.must(meshed.AwaitEnrolled(s.ctx))

	picture := filepath.Join(t.TempDir(), "speed.svg")
	run := func() (string, error) {
		return client.Run(s.ctx, program, "bench", "run", "plain="+plain.At("tcp4", 7007).String(), "mesh="+meshed.At("tcp6", 7007).String(),
			"--per-row", "1s", "--turns", "2", "--svg", picture, "-o", "json")
	}
	var text string
	s.eventually("the servers serve", func() bool { text, err = run(); return err == nil })
	var report speed.Report
	s.must(json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &report))
	if len(report.Rows) != 5 || report.Failed() {
		t.Fatal(text)
	}
	for _, row := range report.Rows {
		for _, r := range row.Results {
			if len(r.Values) != 2 || r.Median <= 0 {
				t.Errorf("%s, %s: %+v", row.Name, r.Target, r)
			}
		}
	}
	svg, err := os.ReadFile(picture)
	s.must(err)
	if err := xml.Unmarshal(svg, new(struct{ XMLName xml.Name })); err != nil || strings.Count(string(svg), "<rect ") != 11 {
		t.Errorf("%v: %s", err, svg)
	}

	// The node reads ztunnel's metrics; it measures past the mesh, so what ztunnel used is
	// there, and is little.
	text, err = s.culvert(s.two, "bench", "run", plain.At("tcp4", 7007).String(), "--rows", "request-1", "--per-row", "1s",
		"--metrics", "http://127.0.0.1:15020/metrics")
	if err != nil || !strings.Contains(text, " MB") {
		t.Errorf("%v: %s", err, text)
	}
	if _, err := s.culvert(s.two, "bench", "run", "mesh=10.0.0.1"); err == nil || !strings.Contains(err.Error(), "want HOST:PORT or NAME=HOST:PORT") {
		t.Errorf("a target without a port: %v", err)
	}
}
