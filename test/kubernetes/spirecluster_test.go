// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
)

// The blocks of docs/identity.md by which a user has Culvert take identities from SPIRE.
const (
	spireIDs     = "apiVersion: spire.spiffe.io/v1alpha1\n"
	spireSockets = "ztunnel:\n  spire:\n    agentSocket: "
)

// recipe is the block that begins so.
func recipe(t *testing.T, begin string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/identity.md")
	fail(t, err)
	unindented := regexp.MustCompile(`(?m)^ {3}`).ReplaceAllString(string(text), "")
	_, block, found := strings.Cut(unindented, "\n```yaml\n"+begin)
	block, _, ended := strings.Cut(block, "\n```\n")
	if !found || !ended {
		t.Fatalf("docs/identity.md has no block of YAML that begins with %q", begin)
	}
	return begin + block + "\n"
}

// A004-1, A004-2, A004-6, A004-9, A004-10: SPIRE as it is run on Kubernetes gives pods their
// identities. cert-manager has its root, ClusterSPIFFEIDs make its entries, and Culvert by its
// chart takes SVIDs from its agents. A ztunnel of another trust domain is told both names. All
// SVIDs are replaced twice, and the server is killed, while pods talk. A pod for which there is
// no entry is refused, is told what one would have to select, and is carried when a label of
// its namespace makes one.
func TestSPIREOnAClusterGivesPodsTheirIdentities(t *testing.T) {
	c := startSPIRECluster(t)
	c.installWith("example.org")
	eventually(t, func() error {
		said, err := c.tryEnter("node1", "curl", "--silent", "http://127.0.0.1:15021/healthz/ready")
		if err == nil && (!strings.Contains(said, "cluster.local") || !strings.Contains(said, "example.org")) {
			err = fmt.Errorf("readiness says %q, and not both trust domains", said)
		}
		return err
	})
	c.installWith("cluster.local")
	c.inSystem("rollout", "status", "daemonset/ztunnel", "--timeout=3m")

	s := c.openShop("served", "culvert.dev/mesh=enabled", "registered=yes")
	const id = "spiffe://cluster.local/ns/served/sa/default"
	for _, node := range bothNodes {
		eventually(t, func() error { return c.certified(node, id) })
	}
	begin := time.Now().Add(time.Second)
	eventually(t, func() error { return s.allWell(begin) })
	root := certificate(t, c.mustKubectl("get", "secret", "spire-root", "--namespace=spire-system", `--output=jsonpath={.data.tls\.crt}`))
	for _, node := range bothNodes {
		held := c.holds(node, id)
		if len(held.RootCerts) != 1 || certificate(t, held.RootCerts[0].PEM) != root {
			t.Errorf("%s proves %s by other roots than cert-manager's: %d", node, id, len(held.RootCerts))
		}
		if n := len(held.CertChain); n != 2 {
			t.Errorf("%s has a chain of %d certificates for %s, want SPIRE's CA above it", node, n, id)
		}
	}
	for range 2 {
		c.awaitReplaced(id)
	}
	c.mustKubectl("delete", "pod", "--namespace=spire-system", "--selector=app=spire-server", "--grace-period=0", "--force")
	c.awaitReplaced(id)
	if err := s.allWell(begin); err != nil {
		t.Error(err)
	}
	c.isCarriedWhenThereIsAnEntry()
}

// spireCluster is a cluster of a test's own with SPIRE on it, and Culvert that asks it.
type spireCluster struct{ *running }

func startSPIRECluster(t *testing.T) *spireCluster {
	t.Helper()
	needRoot(t)
	lastLane.join(t)
	archives := spireArchives(t)
	name := sharedName + "-spire"
	if kept == "" || !isUp(name) {
		fail(t, start(name))
	}
	if kept == "" {
		t.Cleanup(func() { takeDown(t, name) })
	}
	c := &spireCluster{use(t, name)}
	t.Cleanup(func() {
		if t.Failed() {
			c.tell()
		}
	})
	for _, node := range bothNodes {
		for _, archive := range archives {
			c.load(node, archive)
		}
	}
	startCertManager(c.running)
	controller, err := binaries.SPIREController(t.Context(), ".", io.Discard)
	fail(t, err)
	kinds := "--filename=" + filepath.Join(controller, "kinds.yaml")
	c.mustKubectl("apply", "--server-side", kinds)
	c.mustKubectl("wait", "--for=condition=Established", kinds)
	_, _ = c.kubectl("create", "namespace", "spire-system")
	c.mustKubectl("apply", "--filename=testdata/spire.yaml")
	// Of a minute, so that they are seen to be replaced, and not for every pod of the mesh.
	c.mustApply(strings.Replace(recipe(t, spireIDs), "      culvert.dev/mesh: enabled\n", "      registered: \"yes\"\n  ttl: 1m\n", 1))
	c.handOutBundle()
	for _, what := range []string{"deployment/spire-server", "daemonset/spire-agent"} {
		c.mustKubectl("rollout", "status", "--namespace=spire-system", what, "--timeout=3m")
	}
	return c
}

// spireArchives are the images of SPIRE's programs.
func spireArchives(t *testing.T) (archives []string) {
	t.Helper()
	programs, err := binaries.SPIRE(t.Context(), ".", io.Discard)
	fail(t, err)
	controller, err := binaries.SPIREController(t.Context(), ".", io.Discard)
	fail(t, err)
	dir := t.TempDir()
	for _, program := range []string{
		filepath.Join(programs, "spire-server"), filepath.Join(programs, "spire-agent"), filepath.Join(controller, "spire-controller-manager"),
	} {
		archive := filepath.Join(dir, filepath.Base(program)+".tar")
		fail(t, binaries.Archive(t.Context(), ".", program, archive))
		archives = append(archives, archive)
	}
	return archives
}

// load gives a node an image.
func (r *running) load(node, archive string) {
	r.t.Helper()
	f, err := os.Open(archive)
	fail(r.t, err)
	defer f.Close()
	cmd := exec.Command(program, "enter", "-name", r.name, node, "ctr", "--namespace=k8s.io", "images", "import", "-")
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("load %s into %s: %v\n%s", archive, node, err, out)
	}
}

// handOutBundle gives agents what they know SPIRE's server by.
func (c *spireCluster) handOutBundle() {
	c.t.Helper()
	var bundle string
	eventually(c.t, func() (err error) {
		bundle, err = c.kubectl("exec", "deployment/spire-server", "--namespace=spire-system", "--container=spire-server", "--",
			"/bin/spire-server", "bundle", "show", "-socketPath", "/run/spire/private/api.sock")
		return err
	})
	file := filepath.Join(c.t.TempDir(), "root.pem")
	fail(c.t, os.WriteFile(file, []byte(bundle), 0o600))
	_, _ = c.kubectl("delete", "configmap", "spire-bundle", "--namespace=spire-system", "--ignore-not-found")
	c.mustKubectl("create", "configmap", "spire-bundle", "--namespace=spire-system", "--from-file=root.pem="+file)
}

// installWith applies the chart, whose ztunnels are of that trust domain.
func (c *spireCluster) installWith(trustDomain string) {
	c.t.Helper()
	values := filepath.Join(c.t.TempDir(), "values.yaml")
	fail(c.t, os.WriteFile(values, []byte(recipe(c.t, spireSockets)), 0o600))
	c.mustApply(c.helm("template", "--values="+values, "--set=namespace.create=true", "--set=crds=true", "--set=mesh.trustDomain="+trustDomain))
}

// spireHeld is what a node's dump says of an identity's certificate.
type spireHeld struct {
	Identity, State string
	CertChain       []struct{ SerialNumber string }
	RootCerts       []struct{ PEM string }
	Renewal         struct{ Error string }
}

// holds returns what a node holds for an identity; nothing if it does not know it.
func (c *spireCluster) holds(node, id string) spireHeld {
	c.t.Helper()
	var dump struct{ Certificates []spireHeld }
	fail(c.t, json.Unmarshal([]byte(c.enter(node, "curl", "--silent", "--fail", "http://127.0.0.1:15000/config_dump")), &dump))
	for _, held := range dump.Certificates {
		if held.Identity == id {
			return held
		}
	}
	return spireHeld{}
}

// awaitReplaced waits until both nodes have other SVIDs of an identity than now.
func (c *spireCluster) awaitReplaced(id string) {
	c.t.Helper()
	serial := func(node string) string {
		if chain := c.holds(node, id).CertChain; len(chain) > 0 {
			return chain[0].SerialNumber
		}
		return ""
	}
	one, two, begin := serial("node1"), serial("node2"), time.Now()
	within(c.t, 2*time.Minute, func() error {
		now1, now2 := serial("node1"), serial("node2")
		if now1 == "" || now2 == "" || now1 == one || now2 == two {
			return fmt.Errorf("SVIDs of %s were %s and %s, and are %s and %s", id, one, two, now1, now2)
		}
		return nil
	})
	c.t.Logf("both nodes have other SVIDs after %.0f s", time.Since(begin).Seconds())
}

// certified is an error unless a node has a certificate of an identity.
func (c *spireCluster) certified(node, id string) error {
	held := c.holds(node, id)
	if len(held.CertChain) == 0 {
		return fmt.Errorf("%s has no certificate of %s: %q", node, id, held.Renewal.Error)
	}
	return nil
}

// isCarriedWhenThereIsAnEntry is the story's refused twin.
func (c *spireCluster) isCarriedWhenThereIsAnEntry() {
	c.t.Helper()
	c.t.Cleanup(func() { _, _ = c.kubectl("delete", "namespace", "late", "--wait=false") })
	c.mustKubectl("create", "namespace", "late")
	c.mustKubectl("label", "namespace", "late", "culvert.dev/mesh=enabled")
	eventually(c.t, func() error { // the namespace may not have its ServiceAccount yet
		_, err := c.kubectl("run", "late", "--namespace=late", "--image=localhost/podapp:1", `--overrides={"spec":{"nodeName":"node2"}}`)
		return err
	})
	c.mustKubectl("wait", "--for=condition=Ready", "pod/late", "--namespace=late", "--timeout=90s")
	ask := func() (string, error) {
		return c.kubectl("exec", "late", "--namespace=late", "--", "/bin/podapp", "get", "http://web.served")
	}
	if answer, err := ask(); err == nil {
		c.t.Errorf("a pod without an identity reached another of the mesh: %s", answer)
	}
	uid := c.mustKubectl("get", "pod", "late", "--namespace=late", "--output=jsonpath={.metadata.uid}")
	c.awaitLate("uncertified: ", "SPIRE has no registration entry", "k8s:pod-uid:"+uid)
	eventually(c.t, func() error { return c.tellsOf("late", "late", "SPIRE has no registration entry") })
	c.mustKubectl("label", "namespace", "late", "registered=yes")
	c.awaitLate("verified")
	eventually(c.t, func() error { _, err := ask(); return err })
}

// awaitLate waits until the pod is said to be in the mesh in these words.
func (c *spireCluster) awaitLate(words ...string) {
	c.t.Helper()
	eventually(c.t, func() error {
		said, err := c.kubectl("get", "pod", "late", "--namespace=late", `--output=jsonpath={.metadata.annotations.culvert\.dev/status}`)
		for _, word := range words {
			if !strings.Contains(said, word) {
				err = errors.Join(err, fmt.Errorf("the pod is %q, want %q", said, word))
			}
		}
		return err
	})
}

// certificate is the first one of PEM in base64, in base64 without its line breaks.
func certificate(t *testing.T, text string) string {
	t.Helper()
	decoded, err := base64.StdEncoding.DecodeString(text)
	fail(t, err)
	body, _, found := strings.Cut(string(decoded), "-----END CERTIFICATE-----")
	if !found {
		t.Fatalf("no certificate in %q", decoded)
	}
	return strings.Join(strings.Fields(strings.TrimPrefix(strings.TrimSpace(body), "-----BEGIN CERTIFICATE-----")), "")
}

func (c *spireCluster) tell() {
	pods, err := c.kubectl("get", "pods", "--all-namespaces", "--output=wide")
	events, err2 := c.kubectl("get", "events", "--all-namespaces", "--field-selector=type=Warning")
	c.t.Log(pods, events, errors.Join(err, err2))
	for _, of := range [][]string{
		{"spire-system", "app=spire-server"}, {"spire-system", "app=spire-agent"}, {"culvert-system", "app.kubernetes.io/name=ztunnel"},
	} {
		said, _ := c.kubectl("logs", "--namespace="+of[0], "--selector="+of[1], "--all-containers", "--prefix", "--tail=25")
		c.t.Logf("%s says:\n%s", of[1], said)
	}
}
