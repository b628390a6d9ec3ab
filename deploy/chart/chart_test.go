// SPDX-License-Identifier: Apache-2.0

// Package chart is Culvert's Helm chart. Its tests render it, as helm does.
package chart

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files and deploy/manifests")

// helm is the path of Helm's program, which the first run of a machine builds.
var helm = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-modfile=../../tools/helm/go.mod", "-n", "helm")
	cmd.Stderr = os.Stderr
	path, err := cmd.Output()
	return strings.TrimSpace(string(path)), err
})

// template returns what helm template prints for the chart with these flags, or its
// complaint.
func template(t *testing.T, flags ...string) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds helm, which takes minutes")
	}
	program, err := helm()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	cmd := exec.Command(program, append([]string{"template", "culvert", ".", "--namespace=culvert-system", "--kube-version=1.37"}, flags...)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", errors.New(complaint.String())
	}
	return out.String(), nil
}

// sameAs compares what was rendered with a file, which -update writes.
func sameAs(t *testing.T, path, rendered string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(rendered), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), rendered); diff != "" {
		t.Errorf("make manifests would change %s: -file +chart\n%s", path, diff)
	}
}

func TestEveryPlatformRendersAsItsGoldenFile(t *testing.T) {
	platforms, err := filepath.Glob("platforms/*.yaml")
	if err != nil || len(platforms) != 7 {
		t.Fatalf("platforms %v, %v; want seven", platforms, err)
	}
	for _, path := range platforms {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		rendered, err := template(t, "--set=platform="+name)
		if err != nil {
			t.Fatal(err)
		}
		sameAs(t, filepath.Join("testdata", name+".yaml"), rendered)
	}
}

// The manifests are for whoever has no Helm. Whoever has Istio's kinds must not apply
// ours over them, so these stand apart.
func TestTheManifestsAreWhatTheChartRenders(t *testing.T) {
	for file, flags := range map[string][]string{
		"culvert.yaml":   {"--set=namespace.create=true"},
		"policies.yaml":  {"--set=crds=true", "--show-only=templates/policies.yaml"},
		"uninstall.yaml": {"--set=uninstall=true", "--show-only=templates/uninstall.yaml"},
	} {
		rendered, err := template(t, flags...)
		if err != nil {
			t.Fatal(err)
		}
		sameAs(t, filepath.Join("../manifests", file), rendered)
	}
}

// Objects that values ask for, and values that no platform sets.
func TestWhatValuesAskForRendersAsItsGoldenFile(t *testing.T) {
	rendered, err := template(t, "--set=networkPolicy.enabled=true", "--set=podMonitor.enabled=true,podMonitor.labels.release=monitoring",
		"--set=image.repository=example.com/culvert,image.tag=v1,image.pullSecrets={registry}", "--set=seLinuxType=spc_t",
		"--set=mesh.cidrs={10.0.0.0/8,fd00::/8},mesh.ignoreIstioLabels=true", "--set=cni.confDir=/etc/x,cni.binDir=/opt/x,cni.pluginLog=/var/log/x,cni.statusStrict=true",
		"--set=ztunnel.excludeCIDRs={192.0.2.0/24},ztunnel.excludePorts={25,26},ztunnel.standInCIDRs={198.18.0.0/16},ztunnel.memoryLimit=512Mi",
		"--set=ztunnel.cgroup=/cg,ztunnel.kubeletCgroup=/cg/kubelet,identity.memoryLimit=,identity.replicas=3,identity.nodeSelector.pool=ca")
	if err != nil {
		t.Fatal(err)
	}
	sameAs(t, "testdata/values.yaml", rendered)
}

// The plugin holds back the next pods of the mesh. So it goes last, and stays if ztunnel's
// hooks cannot go.
func TestThePluginIsTakenAwayAfterTheSteering(t *testing.T) {
	rendered, err := template(t, "--set=uninstall=true", "--show-only=templates/uninstall.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range podOf(t, rendered).InitContainers {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"steering", "plugin"}, names); diff != "" {
		t.Errorf("init containers: -want +chart\n%s", diff)
	}
}

// AppArmor's default profile lets nobody lock or write below /sys/fs/bpf.
func TestWhatMountsTheBPFFSIsUnconfinedByAppArmor(t *testing.T) {
	for file, flags := range map[string][]string{
		"templates/ztunnel.yaml":   nil,
		"templates/uninstall.yaml": {"--set=uninstall=true"},
	} {
		rendered, err := template(t, append(flags, "--show-only="+file)...)
		if err != nil {
			t.Fatal(err)
		}
		pod, mounted := podOf(t, rendered), 0
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			for _, m := range c.VolumeMounts {
				if m.Name != "bpffs" {
					continue
				}
				mounted++
				if got := c.SecurityContext.AppArmorProfile.Type; got != "Unconfined" {
					t.Errorf("%s: container %s has the AppArmor profile %q", file, c.Name, got)
				}
			}
		}
		if mounted != 1 {
			t.Errorf("%s: %d containers mount the bpffs, want 1", file, mounted)
		}
	}
}

// podSpec is what these tests look at in the pods of a DaemonSet.
type podSpec struct{ InitContainers, Containers []container }

type container struct {
	Name            string
	SecurityContext struct{ AppArmorProfile struct{ Type string } }
	VolumeMounts    []struct{ Name string }
}

// podOf reads the last object of what was rendered, a DaemonSet.
func podOf(t *testing.T, rendered string) podSpec {
	t.Helper()
	objects := strings.Split(rendered, "\n---\n")
	var set struct {
		Kind string
		Spec struct{ Template struct{ Spec podSpec } }
	}
	if err := yaml.Unmarshal([]byte(objects[len(objects)-1]), &set); err != nil || set.Kind != "DaemonSet" {
		t.Fatalf("%q, %v; want a DaemonSet", set.Kind, err)
	}
	return set.Spec.Template.Spec
}

// test/kubernetes has the real API server read them.
func TestTheRightsOfZtunnelComeWithTheirBounds(t *testing.T) {
	rendered, err := template(t, "--set=ztunnel.untaint=true", "--show-only=templates/ztunnel-rbac.yaml", "--show-only=templates/ztunnel-bounds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sameAs(t, "testdata/bounds.yaml", rendered)
}

func TestTheCAMayWriteTheTrustBundleThatItIsTold(t *testing.T) {
	const right = "    resources: [clustertrustbundles]\n    resourceNames: [culvert]\n    verbs: [get, list, watch, update]\n"
	rendered, err := template(t, "--set=identity.clusterTrustBundle=culvert")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(rendered, "- -cluster-trust-bundle=culvert\n") || !strings.Contains(rendered, right) {
		t.Errorf("no flag, or no right:\n%s", rendered)
	}
	if rendered, err = template(t); err != nil || strings.Contains(rendered, "trust-bundle") || strings.Contains(rendered, "clustertrustbundles") {
		t.Errorf("without it: %v\n%s", err, rendered)
	}
}

func TestAWrongValueIsRefusedByItsPath(t *testing.T) {
	for value, names := range map[string]string{
		"platform=gek":                       "/platform",
		"image.registry=example.com":         "image",
		"image.pullPolicy=IfPresent":         "/image/pullPolicy",
		"image.tag=-x":                       "/image/tag",
		"mesh.trustDomain=Cluster.Local":     "/mesh/trustDomain",
		"mesh.trustDomain=spiffe://td":       "/mesh/trustDomain",
		"mesh.cidrs={10.0.0.0}":              "/mesh/cidrs/0",
		"logLevel=trace":                     "/logLevel",
		"ztunnel.memoryLimit=1G":             "/ztunnel/memoryLimit",
		"ztunnel.memoryLimit=1073741824":     "/ztunnel/memoryLimit",
		"ztunnel.drainSeconds=0":             "/ztunnel/drainSeconds",
		"ztunnel.cgroup=sys/fs/cgroup":       "/ztunnel/cgroup",
		"ztunnel.excludePorts={65536}":       "/ztunnel/excludePorts/0",
		"ztunnel.standInCIDRs={1.0.0.0/8,a}": "/ztunnel/standInCIDRs/1",
		"ztunnel.untaint=yes":                "/ztunnel/untaint",
		"ztunnel.requests.gpu=1":             "/ztunnel/requests",
		"ztunnel.nodeSelector.a=b":           "/ztunnel",
		"cni.confDir=../etc":                 "/cni/confDir",
		"cni.exclusive=true":                 "/cni",
		"identity.replicas=0":                "/identity/replicas",
		"identity.ttl=1":                     "/identity/ttl",
		"identity.clusterTrustBundle=a:b":    "/identity/clusterTrustBundle",
		"crds=sometimes":                     "/crds",
		"podMonitor.labels.release=1":        "/podMonitor/labels/release",
		"networkPolicy.enabled=yes":          "/networkPolicy/enabled",
		"uninstall=now":                      "/uninstall",
		"ztunnnel.drainSeconds=5":            "ztunnnel",
	} {
		if _, err := template(t, "--set="+value); err == nil {
			t.Errorf("%s: rendered, want a refusal", value)
		} else if !strings.Contains(err.Error(), names) {
			t.Errorf("%s: the refusal does not name %s: %v", value, names, err)
		}
	}
}
