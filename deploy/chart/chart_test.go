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
		"--set=prometheusRule.enabled=true,prometheusRule.labels.release=monitoring",
		"--set=ztunnel.access.sample=100,ztunnel.access.interval=5m,ztunnel.access.otlpEndpoint=grpcs://otel.example:4317,ztunnel.access.otlpRootConfigMap=otel",
		"--set=image.repository=example.com/culvert,image.tag=v1,image.pullSecrets={registry}", "--set=seLinuxType=spc_t",
		"--set=mesh.cidrs={10.0.0.0/8,fd00::/8},mesh.ignoreIstioLabels=true", "--set=cni.confDir=/etc/x,cni.binDir=/opt/x,cni.pluginLog=/var/log/x,cni.statusStrict=true",
		"--set=ztunnel.excludeCIDRs={192.0.2.0/24},ztunnel.excludePorts={25,26},ztunnel.standInCIDRs={198.18.0.0/16},ztunnel.foreignWorkloadsConfigMap=foreign,ztunnel.memoryLimit=512Mi",
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

// Packets are looked at for culvert verify alone: whoever does without has one right less.
func TestWithoutVerifyNobodyLooksAtPackets(t *testing.T) {
	for _, platform := range []string{"kind", "openshift"} {
		for value, want := range map[string]bool{"true": true, "false": false} {
			rendered, err := template(t, "--set=platform="+platform, "--set=ztunnel.verify="+value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(rendered, "NET_RAW") != want || !strings.Contains(rendered, "- NET_BIND_SERVICE") {
				t.Errorf("%s, ztunnel.verify=%s: NET_RAW is not as it should be in\n%s", platform, value, rendered)
			}
		}
	}
}

// Nobody else could take the taint off again.
func TestTheCAPutsTheTaintBackOnlyIfItIsToldAndZtunnelTakesItOff(t *testing.T) {
	const right = "    resources: [nodes]\n    verbs: [get, list, watch, patch]\n"
	rendered, err := template(t, "--set=ztunnel.taintAfter=1m", "--set=ztunnel.untaint=true", "--show-only=templates/identity.yaml",
		"--show-only=templates/identity-rbac.yaml", "--show-only=templates/identity-bounds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- -taint-after=1m\n", right, "name: culvert-identity-taint\n", "system:serviceaccount:culvert-system:culvert-identity", "oldObject.spec.?unschedulable"} {
		if !strings.Contains(rendered, want) {
			t.Errorf("no %q in:\n%s", want, rendered)
		}
	}
	if rendered, err = template(t); err != nil || strings.Contains(rendered, "taint-after") || strings.Contains(rendered, right) || strings.Contains(rendered, "culvert-identity-taint") {
		t.Errorf("without it: %v\n%s", err, rendered)
	}
	if rendered, err = template(t, "--set=ztunnel.taintAfter=1m", "--set=ztunnel.untaint=true", "--set=uninstall=true"); err != nil || strings.Contains(rendered, "taint-after") {
		t.Errorf("while all ztunnels are taken off: %v\n%s", err, rendered)
	}
	if _, err = template(t, "--set=ztunnel.taintAfter=1m"); err == nil || !strings.Contains(err.Error(), "ztunnel.taintAfter needs ztunnel.untaint=true") {
		t.Errorf("without ztunnel.untaint: %v", err)
	}
}

// What is not asked for is not mounted, and no port of it is open.
func TestTheCAFederatesWithWhomItIsTold(t *testing.T) {
	show := []string{"--show-only=templates/identity.yaml", "--show-only=templates/networkpolicy.yaml", "--set=networkPolicy.enabled=true"}
	rendered, err := template(t, append(show, "--set=identity.federation.configMap=others", "--set=identity.federation.endpoint.enabled=true", "--set=identity.federation.endpoint.serviceType=NodePort", "--set=identity.federation.endpoint.tlsSecret=web")...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"- -federation=/etc/culvert/federation/federation.yaml\n", "- -federation-state=/var/lib/culvert-federation\n", "- -bundle-endpoint=:15016\n",
		"- -bundle-endpoint-cert=/run/culvert/bundle-endpoint/tls.crt\n", "- -bundle-refresh-hint=5m\n",
		"configMap:\n            name: others\n            optional: true\n", "secretName: web\n            optional: true\n", "- name: federation-state\n          emptyDir: {}\n", "containerPort: 15016\n",
		"spec:\n  type: NodePort\n  selector:\n    app.kubernetes.io/name: culvert-identity\n  ports:\n    - name: bundle\n      port: 15016\n      targetPort: 15016\n",
	} {
		if !strings.Contains(rendered, want) {
			t.Errorf("no %q in:\n%s", want, rendered)
		}
	}
	if strings.Contains(rendered, "targetPort: 15012\n    - name: bundle") {
		t.Errorf("who reaches the bundle reaches where nodes get certificates:\n%s", rendered)
	}
	const claimed = "- name: federation-state\n          persistentVolumeClaim:\n            claimName: kept\n"
	if rendered, err = template(t, append(show, "--set=identity.federation.configMap=others", "--set=identity.federation.claim=kept")...); err != nil || !strings.Contains(rendered, claimed) || !strings.Contains(rendered, "fsGroup: 65532\n") {
		t.Errorf("with a claim: %v\n%s", err, rendered)
	}
	if rendered, err = template(t); err != nil || strings.Contains(rendered, "federation") || strings.Contains(rendered, "15016") {
		t.Errorf("without it: %v\n%s", err, rendered)
	}
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

func TestTheCAReadsRevocationListsIfItIsToldWhere(t *testing.T) {
	rendered, err := template(t, "--set=identity.crlConfigMap=istio-ca-crl")
	if err != nil || !strings.Contains(rendered, "- -crl-configmap=culvert-system/istio-ca-crl\n") || !strings.Contains(rendered, "resourceNames: [culvert-deny, istio-ca-crl]") {
		t.Errorf("%v\n%s", err, rendered)
	}
}

func TestNodesAreToldHowMuchToDoubt(t *testing.T) {
	rendered, err := template(t, "--set=ztunnel.idAtSource=enforce", "--set=ztunnel.idAtSourceExempt={10.9.0.0/16,fd9::/64}", "--set=ztunnel.maxTrustAge=1h")
	for _, want := range []string{"- -id-at-source=enforce\n", "- -id-at-source-exempt=10.9.0.0/16,fd9::/64\n", "- -max-trust-age=1h\n"} {
		if err != nil || !strings.Contains(rendered, want) {
			t.Errorf("no %q: %v\n%s", want, err, rendered)
		}
	}
}

func TestKeysMayBePostQuantum(t *testing.T) {
	rendered, err := template(t, "--set=ztunnel.keyKind=mldsa65", "--set=identity.keyKind=mldsa65")
	if n := strings.Count(rendered, "- -key-kind=mldsa65\n"); err != nil || n != 2 {
		t.Errorf("%d of the two programs: %v\n%s", n, err, rendered)
	}
}

// A004-17.
func TestTheCAReadsServicesOnlyToNameThem(t *testing.T) {
	const right = "    resources: [services]\n    verbs: [get, list, watch]\n"
	show := "--show-only=templates/identity-rbac.yaml"
	for set, want := range map[string]bool{"--set=identity.dnsSANs=true": true, "--set=identity.dnsSANs=false": false} {
		rights, err := template(t, set, show)
		if err != nil || strings.Contains(rights, right) != want {
			t.Errorf("%s: %v\n%s", set, err, rights)
		}
		all, err := template(t, set)
		if err != nil || strings.Contains(all, "- -dns-sans\n") != want {
			t.Errorf("%s: %v\n%s", set, err, all)
		}
	}
}

func TestThePassphraseOfTheCAIsMounted(t *testing.T) {
	rendered, err := template(t, "--set=identity.passphraseSecret=ca-passphrase")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- -passphrase-file=/run/culvert/passphrase/passphrase\n", "mountPath: /run/culvert/passphrase\n", "secretName: ca-passphrase\n"} {
		if !strings.Contains(rendered, want) {
			t.Errorf("no %q", want)
		}
	}
	if rendered, err = template(t); err != nil || strings.Contains(rendered, "passphrase") {
		t.Errorf("without it: %v\n%s", err, rendered)
	}
}

func TestTheCAMayReadJoinTokensWhereTheyAreWanted(t *testing.T) {
	rendered, err := template(t, "--set=identity.join.enabled=true")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- -join-secret=culvert-system/culvert-join\n", "resourceNames: [culvert-join]\n    verbs: [get, update]\n"} {
		if !strings.Contains(rendered, want) {
			t.Errorf("no %q", want)
		}
	}
	if rendered, err = template(t); err != nil || strings.Contains(rendered, "join") {
		t.Errorf("without it: %v\n%s", err, rendered)
	}
}

// dapr#9563: a CA that cannot write to its operator's Secret cannot write over it. A004-9: what
// cert-manager keeps is had by that Secret, so the CA has no right over cert-manager's objects.
// A003-16: it may read no Secret by another name or in another namespace.
func TestTheCAMayOnlyReadTheSecretOfItsOperator(t *testing.T) {
	const write = "resources: [secrets, configmaps]"
	own, err := template(t, "--show-only=templates/identity-rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(own, write) || !strings.Contains(own, "resourceNames: [culvert-ca]\n    verbs: [get, list, watch, update]") {
		t.Errorf("without an existing Secret:\n%s", own)
	}
	given, err := template(t, "--set=identity.existingSecret=mesh-ca", "--show-only=templates/identity-rbac.yaml", "--show-only=templates/identity.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(given, write) || strings.Contains(given, "culvert-ca") || !strings.Contains(given, "resourceNames: [mesh-ca]\n    verbs: [get, list, watch]\n") {
		t.Errorf("with one:\n%s", given)
	}
	if strings.Contains(given, "cert-manager.io") {
		t.Errorf("it has rights over cert-manager's objects:\n%s", given)
	}
	for _, want := range []string{"- -secret=culvert-system/mesh-ca\n", "- -existing-ca\n"} {
		if !strings.Contains(given, want) {
			t.Errorf("no %q:\n%s", want, given)
		}
	}
}

// A000-15: root and issuer by --set-file, or one of two references, and never two of them.
func TestACAOfOnesOwnIsGivenInOneWay(t *testing.T) {
	pem := []string{"--set=identity.pem.root=R", "--set=identity.pem.issuer=I", "--set=identity.pem.issuerKey=K"}
	certManager := "--set=identity.certManager.issuer=my-issuer"
	for name, way := range map[string]struct {
		flags []string
		has   []string
	}{
		"a Secret": {[]string{"--set=identity.existingSecret=my-ca"}, []string{"- -secret=culvert-system/my-ca\n            - -existing-ca\n", "resourceNames: [my-ca]\n    verbs: [get, list, watch]\n"}},
		"PEM": {pem, []string{"- -secret=culvert-system/culvert-own-ca\n            - -existing-ca\n", "resourceNames: [culvert-own-ca]\n    verbs: [get, list, watch]\n",
			"    helm.sh/resource-policy: keep\ntype: Opaque\n", "  root.pem: Ug==\n  issuer.pem: SQ==\n  issuer.key: Sw==\n"}},
		"cert-manager": {[]string{certManager}, []string{"- -secret=culvert-system/culvert-own-ca\n            - -existing-ca\n", "  secretName: culvert-own-ca\n  isCA: true\n",
			"    kind: ClusterIssuer\n    name: my-issuer\n"}},
	} {
		rendered, err := template(t, way.flags...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, part := range way.has {
			if !strings.Contains(rendered, part) {
				t.Errorf("%s: rendered without\n%s", name, part)
			}
		}
		if strings.Contains(rendered, "/culvert-ca\n") || strings.Contains(rendered, "resources: [secrets, configmaps]") {
			t.Errorf("%s: the CA may make one of its own", name)
		}
	}
	for name, flags := range map[string][]string{
		"three ways to give one CA": {"--set=identity.existingSecret=my-ca", certManager},
		"belong together":           pem[:2],
	} {
		if _, err := template(t, flags...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", flags, err)
		}
	}
	if _, err := template(t, append(pem, certManager)...); err == nil {
		t.Error("PEM and cert-manager: rendered, want a refusal")
	}
}

func TestSPIREsAgentTakesTheCAsPlace(t *testing.T) {
	agent, admin := "--set=ztunnel.spire.agentSocket=/run/spire/agent/agent.sock", "--set=ztunnel.spire.adminSocket=/run/spire/admin/admin.sock"
	rendered, err := template(t, "--show-only=templates/ztunnel.yaml", agent, admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"- -spire-agent-socket=/run/spire/agent/agent.sock\n", "- -spire-admin-socket=/run/spire/admin/admin.sock\n",
		"mountPath: /run/spire/agent\n", "path: /run/spire/admin\n"} {
		if !strings.Contains(rendered, part) {
			t.Errorf("rendered without %q:\n%s", part, rendered)
		}
	}
	for _, ofCA := range []string{"-ca-address", "-ca-root", "-token-file", "-root-file", "culvert-root"} {
		if strings.Contains(rendered, ofCA) {
			t.Errorf("rendered with %s", ofCA)
		}
	}
	for want, flags := range map[string][]string{
		"belong together":  {agent},
		"in one directory": {agent, "--set=ztunnel.spire.adminSocket=/run/spire/agent/admin.sock"},
	} {
		if _, err := template(t, flags...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", flags, err, want)
		}
	}
}
