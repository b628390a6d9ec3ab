// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// What a CA has of another domain outlives its pod in a volume of this claim, on node1.
const federationClaim = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: federation}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteMany]
  storageClassName: ""
  local: {path: /var/lib/federation}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: federation, namespace: culvert-system}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: federation
  resources: {requests: {storage: 1Mi}}
`

// A CA of another trust domain runs outside of Kubernetes, on node1. The chart's CA fetches
// its bundle, and nodes have it. When that endpoint has gone, and the CA's pod is another one,
// the bundle and its number are known still: without the claim there would be none.
func (c *charted) keepsTheBundleOfAnotherDomain() {
	c.t.Helper()
	stop := c.federate()
	former := c.awaitFederated(func(f federation) error {
		if f.Sequence == 0 || f.Roots != 1 || f.Problem != "" {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
	for _, node := range bothNodes {
		eventually(c.t, func() error {
			dump, err := c.tryEnter(node, "curl", "--silent", "--fail", "http://127.0.0.1:15000/config_dump")
			if err == nil && !strings.Contains(dump, `"other.example"`) {
				err = fmt.Errorf("%s has no bundle of other.example", node)
			}
			return err
		})
	}
	stop()
	c.inSystem("delete", "pod", former.CA, "--grace-period=1")
	c.inSystem("rollout", "status", "deployment/culvert-identity", "--timeout=2m")
	c.awaitFederated(func(f federation) error {
		if f.CA == former.CA || f.Problem == "" {
			return errors.New("no other pod has found the endpoint gone")
		}
		if f.Sequence != former.Sequence || f.Roots != 1 {
			return fmt.Errorf("%+v, want the number %d", f, former.Sequence)
		}
		return nil
	})
}

// federation is what a replica of the CA says of the other domain.
type federation struct {
	TrustDomain, CA, Problem string
	Sequence                 uint64
	Roots                    int
}

// awaitFederated waits until the one replica says what is wanted of the other domain.
func (c *charted) awaitFederated(wanted func(federation) error) (f federation) {
	c.t.Helper()
	eventually(c.t, func() error {
		out, _ := c.culvert(cluster.Kubeconfig(c.name), "bundle", "federations", "--output=json")
		var said struct{ Federations []federation }
		if err := json.Unmarshal([]byte(out), &said); err != nil {
			return fmt.Errorf("%v\n%s", err, out)
		}
		if len(said.Federations) != 1 || said.Federations[0].TrustDomain != "other.example" {
			return errors.New(out)
		}
		f = said.Federations[0]
		return wanted(f)
	})
	return f
}

// federate starts the other domain's CA until stop, and tells the chart's of it, which is then
// one replica.
func (c *charted) federate() (stop func()) {
	c.t.Helper()
	m := &mesh{c.running}
	if err := os.MkdirAll(m.dir("node1"), 0o755); err != nil {
		c.t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(buildMesh(c.t), "culvert-identity"))
	fail(c.t, err)
	fail(c.t, os.WriteFile(m.dir("node1", "culvert-identity"), program, 0o755))
	m.write("node1", "jwks.json", c.mustKubectl("get", "--raw=/openid/v1/jwks"))
	admin, err := os.ReadFile(filepath.Join(cluster.Dir(c.name), "pki", "admin.kubeconfig"))
	fail(c.t, err)
	m.write("node1", "kubeconfig", string(admin))
	c.enter("node1", "mkdir", "-p", "/var/lib/federation")
	stop = c.runOn("node1", "other-ca", insideMesh+"/culvert-identity", "-dir", insideMesh+"/other", "-trust-domain", "other.example",
		"-kubeconfig", insideMesh+"/kubeconfig", "-jwks", insideMesh+"/jwks.json", "-issuer", "https://kubernetes.default.svc",
		"-listen", ":25012", "-metrics-address", "127.0.0.1:25014", "-admin-address", "127.0.0.1:25013",
		"-bundle-endpoint", ":25016", "-bundle-refresh-hint", "5s")
	var root string
	eventually(c.t, func() error {
		text, err := os.ReadFile(m.dir("node1", "other", "root.pem"))
		root = string(text)
		return err
	})
	address := c.mustKubectl("get", "node", "node1", `--output=jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	address, _, _ = strings.Cut(address, " ")
	dir := c.t.TempDir()
	fail(c.t, os.WriteFile(filepath.Join(dir, "other.pem"), []byte(root), 0o600))
	fail(c.t, os.WriteFile(filepath.Join(dir, "federation.yaml"), []byte(`
- trustDomain: other.example
  url: https://`+address+`:25016/
  profile: https_spiffe
  endpointSPIFFEID: spiffe://other.example/culvert/identity
  bundleFile: /etc/culvert/federation/other.pem
`), 0o600))
	c.inSystem("create", "configmap", "federation", "--from-file="+dir)
	c.mustApply(federationClaim)
	began := time.Now()
	c.helm("upgrade", "--set=identity.replicas=1", "--set=identity.federation.configMap=federation", "--set=identity.federation.claim=federation", "--wait", "--timeout=3m")
	c.inSystem("rollout", "status", "deployment/culvert-identity", "--timeout=2m")
	c.t.Logf("the CA has its federation after %.0f s", time.Since(began).Seconds())
	return stop
}
