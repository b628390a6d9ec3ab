// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// meshAbroad is a cluster with Culvert by its chart, one of two that are joined. Each has a
// trust domain of its own, and one pod, web, of the namespace shop.
type meshAbroad struct {
	*running
	domain   string
	pod      string // address of web
	networks string // of its pods
}

// patience is how long the kubelet may take to bring a ConfigMap to a node, and longer on a
// machine that is busy.
const patience = 4 * time.Minute

const abroadPolicy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: abroad, namespace: shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/default, other.example/ns/shop/sa/default]}}]}]
`

// Two clusters of two trust domains, each with Culvert by its chart: a pod of one dials a pod
// of the other when the ConfigMaps of both name the other's CA and workload, by mutual TLS and
// whole SPIFFE IDs. The list is changed while all runs, and nothing is said in plaintext.
func TestPodsOfTwoClustersDialEachOther(t *testing.T) {
	here, there := joinTwo(t)
	sniffers := []*sniffer{here.sniff("said-abroad"), there.sniff("said-abroad")}
	here.federatesWith(there)
	there.federatesWith(here)
	here.names(there, "")
	there.names(here, "")
	here.upgrade()
	there.upgrade()

	here.isTurnedBack(there, "unknown_peer", "-foreign-workloads names no workload there")
	begin := time.Now()
	here.names(there, there.id())
	here.reaches(there)
	t.Logf("the pod of the other cluster is reached %.0f s after its ConfigMap named it", time.Since(begin).Seconds())
	there.names(here, here.id())
	there.reaches(here)
	for _, m := range []*meshAbroad{here, there} {
		other := there
		if m == there {
			other = here
		}
		m.awaitRecord("src.identity", m.id(), "dst.identity", other.id(), "direction", "outbound", "result", "ok", "path", "tunnel")
		m.awaitRecord("src.identity", other.id(), "dst.identity", m.id(), "direction", "inbound", "result", "ok", "path", "tunnel")
	}
	here.names(there, "spiffe://other.example/ns/shop/sa/another")
	here.isTurnedBack(there, "tls", "want spiffe://other.example/ns/shop/sa/another")
	here.names(there, "")
	here.isTurnedBack(there, "unknown_peer", "-foreign-workloads names no workload there")
	there.reaches(here)
	for _, s := range sniffers {
		if seen := s.look(); len(seen.clear) != 0 || seen.tunnel[4] == 0 || seen.lost != 0 {
			t.Errorf("between the clusters: %v; %d packets were lost", seen, seen.lost)
		}
	}
}

// joinTwo returns two clusters that are joined, in which the pods are enrolled.
func joinTwo(t *testing.T) (here, there *meshAbroad) {
	t.Helper()
	needRoot(t)
	lastLane.join(t)
	var both [2]*meshAbroad
	var configs [2]cluster.Config
	for site, domain := range []string{"cluster.local", "other.example"} {
		name := fmt.Sprintf("%s-site%d", sharedName, site)
		configs[site] = cluster.Config{Name: name, Site: site}
		fail(t, start(name, "-site", fmt.Sprint(site)))
		t.Cleanup(func() { takeDown(t, name) })
		both[site] = &meshAbroad{running: use(t, name), domain: domain}
	}
	fail(t, cluster.Join(configs[0], configs[1]))
	for _, m := range both {
		m.begin()
	}
	return both[0], both[1]
}

// values are those of this mesh.
func (m *meshAbroad) values(more ...string) []string {
	return append([]string{"--set=mesh.trustDomain=" + m.domain, "--set=identity.replicas=1",
		"--set=identity.federation.endpoint.enabled=true", "--set=identity.federation.endpoint.serviceType=NodePort",
		"--set=identity.federation.endpoint.refreshHint=5s", "--timeout=4m"}, more...)
}

// begin puts Culvert and the pod there.
func (m *meshAbroad) begin() {
	m.t.Helper()
	m.t.Cleanup(func() {
		if m.t.Failed() {
			(&charted{m.running}).tell()
		}
	})
	m.helm("install", m.values("--create-namespace", "--wait")...)
	m.inSystem("rollout", "status", "daemonset/ztunnel", "--timeout=3m")
	m.makeNamespace("shop", "culvert.dev/mesh=enabled")
	m.makePodIn("shop", "web", "node1")
	m.mustKubectl("wait", "--namespace=shop", "--for=condition=Ready", "pod/web", "--timeout=2m")
	m.mustApply(abroadPolicy) // without a policy that names it, nobody of another domain is let in
	m.awaitEnrolled("shop")
	m.pod = m.mustKubectl("get", "pod", "web", "--namespace=shop", "--output=jsonpath={.status.podIP}")
	v6 := m.mustKubectl("get", "pod", "web", "--namespace=shop", "--output=jsonpath={.status.podIPs[1].ip}")
	m.networks = strings.Join(strings.Split(m.pod, ".")[:2], ".") + `.0.0/16, "` + strings.Join(strings.Split(v6, ":")[:3], ":") + `::/48"`
}

func (m *meshAbroad) id() string { return "spiffe://" + m.domain + "/ns/shop/sa/default" }

// put replaces a ConfigMap of a file.
func (m *meshAbroad) put(name string, files map[string]string) {
	m.t.Helper()
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": "culvert-system"}, "data": files})
	fail(m.t, err)
	m.mustApply(string(text))
}

// federatesWith has the CA fetch the other's bundle.
func (m *meshAbroad) federatesWith(other *meshAbroad) {
	m.t.Helper()
	address := other.mustKubectl("get", "node", "node1", `--output=jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	address, _, _ = strings.Cut(address, " ")
	port := other.inSystem("get", "service", "culvert-bundle", "--output=jsonpath={.spec.ports[0].nodePort}")
	m.put("federation", map[string]string{
		"other.pem": other.inSystem("get", "configmap", "culvert-root", `--output=jsonpath={.data.root\.pem}`) + "\n",
		"federation.yaml": fmt.Sprintf("- trustDomain: %s\n  url: https://%s:%s/\n  profile: https_spiffe\n  endpointSPIFFEID: spiffe://%[1]s/culvert/identity\n  bundleFile: /etc/culvert/federation/other.pem\n",
			other.domain, address, port),
	})
}

// names has the ConfigMap name who is at the other's pod; nobody if id is empty.
func (m *meshAbroad) names(other *meshAbroad, id string) {
	m.t.Helper()
	text := fmt.Sprintf("- trustDomain: %s\n  cidrs: [%s]\n", other.domain, other.networks)
	if id != "" {
		text += fmt.Sprintf("  workloads:\n  - id: %s\n    addresses: [%s]\n", id, other.pod)
	}
	m.put("abroad", map[string]string{"foreign.yaml": text})
	// The kubelet looks for a new one about once a minute, and when the pod changes.
	m.inSystem("annotate", "pods", "--selector=app.kubernetes.io/name=ztunnel", "--overwrite", fmt.Sprintf("test/changed=%d", time.Now().UnixNano()))
}

// upgrade has the chart take the ConfigMaps.
func (m *meshAbroad) upgrade() {
	m.t.Helper()
	m.helm("upgrade", m.values("--set=identity.federation.configMap=federation", "--set=ztunnel.foreignWorkloadsConfigMap=abroad", "--wait")...)
	for _, what := range []string{"deployment/culvert-identity", "daemonset/ztunnel"} {
		m.inSystem("rollout", "status", what, "--timeout=4m")
	}
}

func (m *meshAbroad) ask(other *meshAbroad) (string, error) {
	return m.kubectl("exec", "--namespace=shop", "web", "--", "/bin/podapp", "get", "http://"+other.pod+":8080/said-abroad")
}

func (m *meshAbroad) reaches(other *meshAbroad) {
	m.t.Helper()
	within(m.t, patience, func() error {
		answer, err := m.ask(other)
		if err == nil && !strings.Contains(answer, "web /said-abroad") {
			err = fmt.Errorf("answered %q", answer)
		}
		return err
	})
}

// isTurnedBack wants the pod's connections refused from some time on, by a word and for a
// reason.
func (m *meshAbroad) isTurnedBack(other *meshAbroad, word, says string) {
	m.t.Helper()
	before := len(m.records(func(r record) bool { return refused(r, word, says) }))
	within(m.t, patience, func() error {
		if answer, err := m.ask(other); err == nil {
			return fmt.Errorf("answered %q", answer)
		}
		if len(m.records(func(r record) bool { return refused(r, word, says) })) == before {
			return errors.New("no record of that: " + word + ", " + says)
		}
		return nil
	})
}

func refused(r record, word, says string) bool {
	return r["direction"] == "outbound" && r["result"] == word && strings.Contains(fmt.Sprint(r["error"]), says)
}

// records are those of node1's ztunnel that are wanted.
func (m *meshAbroad) records(wanted func(record) bool) (found []record) {
	m.t.Helper()
	pod := m.inSystem("get", "pods", "--selector=app.kubernetes.io/name=ztunnel", "--field-selector=spec.nodeName=node1", "--output=jsonpath={.items[0].metadata.name}")
	for line := range strings.Lines(m.inSystem("logs", pod, "--container=ztunnel", "--tail=-1")) {
		var r record
		if json.Unmarshal([]byte(line), &r) == nil && strings.HasPrefix(fmt.Sprint(r["message"]), "connection ") && wanted(r) {
			found = append(found, r)
		}
	}
	return found
}

func (m *meshAbroad) awaitRecord(pairs ...string) {
	m.t.Helper()
	eventually(m.t, func() error {
		if len(m.records(func(r record) bool {
			for i := 0; i < len(pairs); i += 2 {
				if r[pairs[i]] != pairs[i+1] {
					return false
				}
			}
			return true
		})) == 0 {
			return fmt.Errorf("%s has no record of %q", m.domain, pairs)
		}
		return nil
	})
}
