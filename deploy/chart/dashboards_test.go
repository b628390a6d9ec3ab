// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// The sidecar of Grafana's chart writes what it finds in such ConfigMaps to files.
func TestDashboardsAreInConfigMapsAsTheyAreInFiles(t *testing.T) {
	rendered, err := template(t, "--set=dashboards.enabled=true,dashboards.labels.team=mesh,dashboards.annotations.grafana_folder=Mesh",
		"--show-only=templates/dashboards.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, text := range strings.Split(rendered, "\n---\n") {
		var object corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		if object.Labels["grafana_dashboard"] != "1" || object.Labels["team"] != "mesh" || object.Annotations["grafana_folder"] != "Mesh" {
			t.Errorf("%s: labels %v, annotations %v", object.Name, object.Labels, object.Annotations)
		}
		maps.Copy(found, object.Data)
	}
	files, err := filepath.Glob("../dashboards/*.json")
	if err != nil || len(files) < 3 || len(files) != len(found) {
		t.Errorf("%d files, %d dashboards: %v", len(files), len(found), err)
	}
	for _, file := range files {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimSpace(string(want)), strings.TrimSpace(found[filepath.Base(file)])); diff != "" {
			t.Errorf("%s: -file +ConfigMap\n%s", file, diff)
		}
	}
}
