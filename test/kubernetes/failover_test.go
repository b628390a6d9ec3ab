// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// A node needs a certificate when a pod of a ServiceAccount comes that it has not seen.
// It gets it within a second, though a replica of the CA is killed again and again, or the
// network of its node drops all packets.
func TestIdentitiesAreIssuedWithinASecondWhileAReplicaOfTheCAIsGone(t *testing.T) {
	m := useMeshAlone(t)
	m.makeNamespace("failover", "culvert.dev/mesh=enabled")
	replicas := m.replicasOfTheCA()
	if len(replicas) != 2 || replicas[0] == replicas[1] {
		t.Fatalf("replicas of the CA are on %v, want one on each node", replicas)
	}
	for _, story := range []struct {
		when  string
		nodes []string
		begin func() (end func())
	}{
		{"all-well", bothNodes, func() func() { return func() {} }},
		{"unplugged", []string{"node1"}, func() func() { return m.unplug("node2") }},
		{"killed", bothNodes, func() func() { return m.killOverAndOver("node2", "culvert-identit") }}, // the kernel keeps 15 letters
	} {
		p99 := time.Hour
		for try := 0; try < 3 && p99 > time.Second; try++ { // the machine may stand still once
			p99 = min(p99, m.strangersTake(fmt.Sprint(story.when, "-", try), story.nodes, story.begin))
		}
		if p99 > time.Second {
			t.Errorf("%s: p99 %v, want a second at most", story.when, p99)
		}
	}
	m.awaitReady()
}

// strangersTake is how long pods of new ServiceAccounts wait for their certificates, but for
// one in a hundred, between begin and end.
func (m *installed) strangersTake(when string, nodes []string, begin func() (end func())) time.Duration {
	m.t.Helper()
	began := time.Now()
	end := begin()
	m.strangersCome(when, nodes...)
	end()
	issued, failed := m.issuances("failover", began)
	for _, failure := range failed {
		m.t.Errorf("not issued: %s", failure)
	}
	var took []time.Duration
	for identity, d := range issued {
		if strings.Contains(identity, "/sa/"+when) {
			took = append(took, d)
		}
	}
	if len(took) == 0 {
		m.t.Fatalf("%s: nothing was issued", when)
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	m.t.Logf("%-12s %2d identities: p50 %v, p99 %v", when, len(took), took[len(took)/2], p99)
	return p99
}

// replicasOfTheCA are the nodes that they run on, by their names.
func (m *installed) replicasOfTheCA() []string {
	m.t.Helper()
	return strings.Fields(m.mustKubectl("get", "pods", "--namespace=culvert-system", "--selector=app.kubernetes.io/name=culvert-identity",
		"--sort-by=.metadata.name", "--output=jsonpath={.items[*].spec.nodeName}"))
}

const stranger = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: NAME, namespace: failover}
---
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: failover}
spec: {nodeName: NODE, serviceAccountName: NAME, terminationGracePeriodSeconds: 1, containers: [{name: app, image: "localhost/podapp:1"}]}
---
`

// strangersCome makes pods of ServiceAccounts that are new, three on each node, and returns
// when all have their certificates.
func (m *installed) strangersCome(when string, nodes ...string) {
	m.t.Helper()
	const each = 3
	var objects strings.Builder
	for _, node := range nodes {
		for i := range each {
			objects.WriteString(strings.NewReplacer("NAME", fmt.Sprintf("%s-%s-%d", when, node, i), "NODE", node).Replace(stranger))
		}
	}
	if err := m.apply(objects.String()); err != nil {
		m.t.Fatal(err)
	}
	eventually(m.t, func() error {
		found, err := m.kubectl("get", "pods", "--namespace=failover", `--output=jsonpath={range .items[*]}{.metadata.name} {.metadata.annotations.culvert\.dev/status}{"\n"}{end}`)
		if pods := strings.Count(found, "\n") + 1; err == nil && strings.Count(found, " verified") < pods {
			err = fmt.Errorf("not all are verified:\n%s", found)
		}
		return err
	})
}

// unplug takes the cable out of a node, until plug or the end of the test.
func (r *running) unplug(node string) (plug func()) {
	r.t.Helper()
	switches, err := netns.GetFromPid(supervisor(r.t, r.name))
	fail(r.t, err)
	defer switches.Close()
	handle, err := netlink.NewHandleAt(switches)
	fail(r.t, err)
	port, err := handle.LinkByName(node)
	fail(r.t, err)
	fail(r.t, handle.LinkSetDown(port))
	plug = func() {
		if err := handle.LinkSetUp(port); err != nil {
			r.t.Errorf("plug %s in: %v", node, err)
		}
	}
	r.t.Cleanup(func() {
		plug()
		handle.Close()
	})
	return plug
}

// killOverAndOver kills the processes of that name on a node whenever there are any, until
// stop.
func (r *running) killOverAndOver(node, name string) (stop func()) {
	r.t.Helper()
	return r.runOn(node, "killer", "sh", "-c", "trap 'exit 0' TERM; while sleep 0.1; do pkill -KILL -x "+name+"; done")
}

// issuances are how long each certificate took that ztunnels got for ServiceAccounts of a
// namespace since then, and the log lines about those that they did not get.
func (m *installed) issuances(namespace string, since time.Time) (took map[string]time.Duration, failed []string) {
	m.t.Helper()
	took = map[string]time.Duration{}
	said := m.mustKubectl("logs", "--namespace=culvert-system", "--selector=app.kubernetes.io/name=ztunnel", "--container=ztunnel",
		"--tail=-1", "--since-time="+since.UTC().Format(time.RFC3339))
	for line := range strings.Lines(said) {
		var record struct{ Message, Identity, Took string }
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			m.t.Fatal(errors.Join(err, errors.New(line)))
		}
		if !strings.Contains(record.Identity, "/ns/"+namespace+"/") {
			continue
		}
		switch record.Message {
		case "SVID issued":
			d, err := time.ParseDuration(record.Took)
			fail(m.t, err)
			took[record.Identity] = max(took[record.Identity], d)
		case "SVID not issued", "SVID renewal is overdue":
			failed = append(failed, line)
		}
	}
	return took, failed
}
