// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// charted is a cluster of a test's own, on which Culvert comes and goes by its chart.
type charted struct{ *running }

func startCharted(t *testing.T) *charted {
	t.Helper()
	needRoot(t)
	ownLane.join(t)
	name := sharedName + "-chart"
	if err := start(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { takeDown(t, name) })
	c := &charted{use(t, name)}
	t.Cleanup(func() {
		if t.Failed() {
			c.tell()
		}
	})
	return c
}

// helm returns what helm prints of the chart, with the values of this cluster.
func (r *running) helm(command string, flags ...string) string {
	r.t.Helper()
	cgroup := r.enter("node1", "findmnt", "--noheadings", "--first-only", "--output=TARGET", "--types=cgroup2")
	cmd := exec.Command("go", append([]string{"tool", "-modfile=tools/helm/go.mod", "helm", command, "culvert", "deploy/chart",
		"--kubeconfig=" + cluster.Kubeconfig(r.name), "--namespace=culvert-system", "--set=image.pullPolicy=Never",
		"--set=ztunnel.cgroup=" + cgroup, "--set=ztunnel.kubeletCgroup=" + cgroup + "/" + cluster.KubeletCgroup}, flags...)...)
	cmd.Dir, cmd.Stderr = filepath.Join("..", ".."), r.t.Output()
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("helm %s: %v", command, err)
	}
	return string(out)
}

// install returns when all of Culvert is ready.
func (c *charted) install() {
	c.t.Helper()
	c.mustApply(c.helm("template", "--set=namespace.create=true", "--set=crds=true"))
	for _, what := range []string{"deployment/culvert-identity", "daemonset/ztunnel"} {
		c.inSystem("rollout", "status", what, "--timeout=3m")
	}
}

func (r *running) mustApply(objects string) {
	r.t.Helper()
	if err := r.apply(objects); err != nil {
		r.t.Fatal(err)
	}
}

// inSystem is kubectl in Culvert's namespace.
func (r *running) inSystem(args ...string) string {
	r.t.Helper()
	return r.mustKubectl(append([]string{"--namespace=culvert-system"}, args...)...)
}

// awaitStatus waits until all pods of the namespace default have that status of the mesh;
// empty is none.
func (c *charted) awaitStatus(want string) {
	c.t.Helper()
	eventually(c.t, func() error {
		found, err := c.kubectl("get", "pods", `--output=jsonpath={range .items[*]}{.metadata.name} {.metadata.annotations.culvert\.dev/status}{"\n"}{end}`)
		for line := range strings.Lines(found) {
			if name, status, _ := strings.Cut(strings.TrimSpace(line), " "); status != want {
				err = errors.Join(err, fmt.Errorf("pod %s is %q in the mesh, want %q", name, status, want))
			}
		}
		return err
	})
}

func (c *charted) tell() {
	pods, err := c.kubectl("get", "pods", "--all-namespaces", "--output=wide")
	events, err2 := c.kubectl("get", "events", "--namespace=culvert-system")
	c.t.Log(pods, events, errors.Join(err, err2))
	for _, app := range []string{"ztunnel", "culvert-identity"} {
		said, _ := c.kubectl("logs", "--namespace=culvert-system", "--selector=app.kubernetes.io/name="+app, "--all-containers", "--prefix", "--tail=20")
		c.t.Logf("%s says:\n%s", app, said)
	}
}

func TestCulvertComesAndGoesByItsChart(t *testing.T) {
	c := startCharted(t)
	c.makeWeb()
	c.comesAndLeavesNothing()
	c.comesToAPluginThatWasLeftBehind()
	c.comesByHelm()
	c.keepsTheBundleOfAnotherDomain()
	c.keepsPodsOffANodeWhoseZtunnelIsAway()
}

func (c *charted) comesAndLeavesNothing() {
	c.t.Helper()
	c.install()
	c.mustKubectl("label", "namespace", "default", "culvert.dev/mesh=enabled")
	c.awaitStatus("verified")
	c.hearBothNodes("asker1", "http://web")

	// With pods in the mesh it does not let go of them, and can be taken back.
	remove := c.helm("template", "--set=uninstall=true", "--show-only=templates/uninstall.yaml")
	c.mustApply(remove)
	eventually(c.t, func() error {
		said, err := c.kubectl("logs", "--namespace=culvert-system", "daemonset/ztunnel", "--container=steering")
		if err == nil && !strings.Contains(said, "namespaces are in the mesh, and their next pods would start in plaintext: default") {
			err = fmt.Errorf("it says %q", said)
		}
		return err
	})
	if answer, err := c.kubectl("exec", "asker1", "--", "/bin/podapp", "get", "http://web"); err == nil {
		c.t.Errorf("a pod of the mesh reached another without a ztunnel: %s", answer)
	}
	for _, node := range bothNodes {
		if !c.chains(node) {
			c.t.Errorf("%s: the plugin is gone, and the next pods of the mesh would start in plaintext", node)
		}
	}
	c.install()
	c.hearBothNodes("asker1", "http://web")

	c.mustKubectl("label", "namespace", "default", "culvert.dev/mesh-")
	c.awaitStatus("")
	c.mustApply(remove)
	c.inSystem("rollout", "status", "daemonset/ztunnel", "--timeout=3m")
	c.hearBothNodes("asker1", "http://web")
	c.mustKubectl("delete", "namespace", "culvert-system", "--timeout=60s")
	for _, node := range bothNodes {
		c.wantNothingOn(node)
	}
	c.mustKubectl("rollout", "restart", "deployment/web")
	c.mustKubectl("rollout", "status", "deployment/web", "--timeout=60s") // pods end, and others start
}

// wantNothingOn looks for what an uninstall must not leave on a node. The plugin's program
// stays for the sandboxes that were started with it.
func (c *charted) wantNothingOn(node string) {
	c.t.Helper()
	if c.chains(node) {
		c.t.Errorf("%s: a list of plugins has the plugin", node)
	}
	for _, dir := range []string{"/run/culvert", "/sys/fs/bpf/culvert"} {
		if left, err := c.tryEnter(node, "ls", "-A", dir); err == nil && left != "" {
			c.t.Errorf("%s: %s holds %s", node, dir, left)
		}
	}
}

// Whoever did not uninstall in order has a plugin without a ztunnel. After a reboot it
// lets no pod start, and those of Culvert must not be among them.
func (c *charted) comesToAPluginThatWasLeftBehind() {
	c.t.Helper()
	c.install()
	c.mustKubectl("delete", "namespace", "culvert-system", "--timeout=60s")
	for _, node := range bothNodes {
		if !c.chains(node) {
			c.t.Fatalf("%s: the plugin is gone by itself", node)
		}
		c.enter(node, "sh", "-c", "rm -rf /run/culvert/*")
	}
	c.install()
}

// Kinds that others have installed stay as they are: Helm would refuse to take over what
// is not its own.
func (c *charted) comesByHelm() {
	c.t.Helper()
	c.mustKubectl("delete", "namespace", "culvert-system", "--timeout=60s")
	c.mustKubectl("delete", "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings",
		"--selector=app.kubernetes.io/part-of=culvert")
	const theirs, missing = "peerauthentications.security.istio.io", "authorizationpolicies.security.istio.io"
	c.mustKubectl("delete", "customresourcedefinition", missing)
	before := c.mustKubectl("get", "customresourcedefinition", theirs, "--output=jsonpath={.metadata.resourceVersion}")
	c.helm("install", "--create-namespace", "--wait", "--timeout=3m")
	c.helm("upgrade", "--set=logLevel=warn")
	if after := c.mustKubectl("get", "customresourcedefinition", theirs, "--output=jsonpath={.metadata.resourceVersion}"); after != before {
		c.t.Errorf("%s was changed, from version %s to %s", theirs, before, after)
	}
	eventually(c.t, func() error { return c.refusesPolicies() })
}

// The CA puts the taint on the Node of a ztunnel that does not get ready, and of two nodes
// on one only. ztunnel takes it off.
func (c *charted) keepsPodsOffANodeWhoseZtunnelIsAway() {
	c.t.Helper()
	c.helm("upgrade", "--set=ztunnel.untaint=true", "--set=ztunnel.taintAfter=10s", "--wait", "--timeout=3m")
	for _, what := range []string{"deployment/culvert-identity", "daemonset/ztunnel"} { // Helm waits for one ztunnel only
		c.inSystem("rollout", "status", what, "--timeout=3m")
	}
	eventually(c.t, c.ztunnelsWereSeenReady)
	tainted := func() int {
		return strings.Count(c.mustKubectl("get", "nodes", "--output=jsonpath={.items[*].spec.taints[*]}"), `"effect":"NoSchedule","key":"culvert.dev/not-ready"`)
	}
	begin := time.Now()
	var stops []func()
	for _, node := range bothNodes {
		stops = append(stops, c.killOverAndOver(node, "ztunnel"))
	}
	eventually(c.t, func() error {
		if tainted() == 0 {
			return errors.New("no node has the taint")
		}
		return nil
	})
	c.t.Logf("a node got the taint %.0f s after its ztunnel went", time.Since(begin).Seconds())
	eventually(c.t, func() error {
		said, err := c.kubectl("logs", "--namespace=culvert-system", "--selector=app.kubernetes.io/name=culvert-identity", "--tail=-1")
		if err == nil && !strings.Contains(said, "as many nodes have the taint as may have it") {
			err = fmt.Errorf("the CA does not say that the other node gets no taint:\n%s", said)
		}
		return err
	})
	if n := tainted(); n != 1 {
		c.t.Errorf("%d of two nodes have the taint", n)
	}
	for _, stop := range stops {
		stop()
	}
	begin = time.Now()
	eventually(c.t, func() error {
		if tainted() > 0 {
			return errors.New("a node still has the taint")
		}
		return nil
	})
	c.t.Logf("the taint was gone %.0f s after ztunnel was left alone", time.Since(begin).Seconds())

	c.mustKubectl("taint", "node", "node1", "theirs=x:PreferNoSchedule")
	asCA := func(args ...string) func() error {
		return func() error {
			_, err := c.kubectl(append(args, "--as=system:serviceaccount:culvert-system:culvert-identity")...)
			return err
		}
	}
	refusedAs(c.t, "may change nothing of a Node but its taint", asCA("label", "node", "node1", "drawn=here"))
	refusedAs(c.t, "may change nothing of a Node but its taint", asCA("patch", "node", "node1", `--patch={"spec":{"unschedulable":true}}`))
	const only = "may put the taint culvert.dev/not-ready:NoSchedule on a Node, and change no other"
	refusedAs(c.t, only, asCA("taint", "node", "node1", "more=x:NoSchedule"))
	refusedAs(c.t, only, asCA("taint", "node", "node1", "culvert.dev/not-ready:NoExecute"))
	refusedAs(c.t, only, asCA("taint", "node", "node1", "theirs-"))
}

// ztunnelsWereSeenReady is an error unless all are, for longer than the CA takes to look.
func (c *charted) ztunnelsWereSeenReady() error {
	found, err := c.kubectl("get", "pods", "--namespace=culvert-system", "--selector=app.kubernetes.io/name=ztunnel",
		`--output=jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}{"\n"}{end}`)
	if err != nil {
		return err
	}
	for line := range strings.Lines(found) {
		status, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		since, err := time.Parse(time.RFC3339, text)
		if err != nil || status != "True" || time.Since(since) < 10*time.Second {
			return fmt.Errorf("a ztunnel is not ready, or only just: %q, %v", line, err)
		}
	}
	return nil
}

// refusesPolicies is an error unless the API server refuses policies that mean nothing,
// and says why.
func (c *charted) refusesPolicies() error {
	var errs []error
	for spec, why := range map[string]string{
		"kind: PeerAuthentication, spec: {mtls: {mode: STRIKT}}":                                                       `Unsupported value: "STRIKT"`,
		"kind: PeerAuthentication, spec: {portLevelMtls: {8080: {mode: STRICT}}}":                                      "needs a selector",
		"kind: PeerAuthentication, spec: {selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}":     "is no port",
		"kind: AuthorizationPolicy, spec: {selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: web}]}": "only one of",
		"kind: AuthorizationPolicy, spec: {action: REFUSE}":                                                            `Unsupported value: "REFUSE"`,
	} {
		err := c.apply("{apiVersion: security.istio.io/v1, metadata: {name: wrong, namespace: default}, " + spec + "}")
		if err == nil || !strings.Contains(err.Error(), why) {
			errs = append(errs, fmt.Errorf("%s: %v, want %q", spec, err, why))
		}
	}
	return errors.Join(errs...)
}
