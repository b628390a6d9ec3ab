// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// abroad is two meshes of one node each: that of cluster.local on node 1, that of
// other.example on node 2. Each has a CA, which gives its bundle, and a pod of the
// ServiceAccount web in the same namespace.
type abroad struct {
	*federation
	other      *lab.Identity
	ours, them *lab.Pod
	files      map[*lab.Node]string // of the workloads of the other domain
}

const (
	ourDomain   = "cluster.local"
	theirDomain = "other.example"
)

func tellAbroad(t *testing.T) *abroad {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list := file("federation.yaml", "[]\n")
	s := tellAlone(t, lab.Options{Apart: true, IdentityArgs: []string{
		"-federation", list, "-bundle-endpoint", fmt.Sprintf(":%d", endpointPort), "-bundle-refresh-hint", "5s",
	}}, "mesh")
	a := &abroad{federation: &federation{s, list, 0, nil}, files: map[*lab.Node]string{s.one: file("one.yaml", ""), s.two: file("two.yaml", "")}}
	a.other = a.neighbour("other", 101, "-federation", file("federation-of-other.yaml", bySPIFFE(s.Identity, ourDomain)))
	a.write(s.one, theirDomain, "")
	a.write(s.two, ourDomain, "")
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.two.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: []string{"-foreign-workloads", a.files[s.one]}}))
	s.must(s.two.StartZtunnel(s.ctx, lab.ZtunnelOptions{TrustDomain: theirDomain, Identity: a.other, Args: []string{"-foreign-workloads", a.files[s.two]}}))
	web := func(n *lab.Node) *lab.Pod {
		p := s.pod(n, "web-"+n.Name, func(spec *lab.PodSpec) { spec.ServiceAccount, spec.Labels["app"] = "web", "web" })
		s.serve(p.Place, agent.Echo, 8080)
		return p
	}
	a.ours, a.them = web(s.one), web(s.two)
	return a
}

// id is the ServiceAccount web of a domain.
func (a *abroad) id(td string) string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/web", td, a.namespace)
}

// write has the file of a node name who is at the other node's pod; nobody if id is empty.
func (a *abroad) write(n *lab.Node, td, id string) {
	a.Helper()
	far := a.two
	if n == a.two {
		far = a.one
	}
	text := fmt.Sprintf("- trustDomain: %s\n  cidrs: [%v, %v]\n", td, far.PodCIDR4, far.PodCIDR6)
	if id != "" {
		to := a.them
		if n == a.two {
			to = a.ours
		}
		text += fmt.Sprintf("  workloads:\n  - id: %s\n    addresses: [%v, %v]\n", id, to.At("tcp4", 0).Addr(), to.At("tcp6", 0).Addr())
	}
	a.must(os.WriteFile(a.files[n]+".new", []byte(text), 0o600))
	a.must(os.Rename(a.files[n]+".new", a.files[n]))
}

// names is write, and waits until ztunnel goes by it.
func (a *abroad) names(n *lab.Node, td, id string) {
	a.Helper()
	a.write(n, td, id)
	a.eventually("ztunnel reads who is there: "+id, func() bool {
		dump, err := n.Dump(a.ctx)
		text := string(dump.Text["foreign"])
		return err == nil && strings.Contains(text, td) && strings.Contains(text, `"id"`) == (id != "") && strings.Contains(text, id)
	})
}

// turnedBack wants our pod's connections to the other domain refused, by a word and for a
// reason. After one that failed, connect() itself is refused for a second, without a record.
func (a *abroad) turnedBack(when, word, says string) {
	a.Helper()
	before := len(a.failures(word, says))
	a.eventually(fmt.Sprintf("%s: a record of %s: %s", when, word, says), func() bool {
		if a.ours.Ping(a.ctx, "tcp4", a.them.At("tcp4", 8080), "ping") == nil {
			a.Fatalf("%s: let through", when)
		}
		return len(a.failures(word, says)) > before
	})
}

// failures are the records of our pod's connections that ended with a word.
func (a *abroad) failures(word, says string) (found []lab.Record) {
	a.Helper()
	records, err := a.one.Records()
	a.must(err)
	for _, r := range records {
		if r.Get("direction") == "outbound" && r.Get("result") == word && strings.Contains(r.Get("error"), says) {
			found = append(found, r)
		}
	}
	return found
}

// open is a connection of our pod to the other domain that stays.
func (a *abroad) open() (conn *agent.Conn) {
	a.Helper()
	a.eventually("a connection to the other domain", func() bool {
		var err error
		conn, err = a.ours.Dial(a.ctx, "tcp4", a.them.At("tcp4", 8080))
		return err == nil && conn.Ping(a.ctx, "are you there") == nil
	})
	return conn
}

// cut wants a connection broken off as denied by a change.
func (a *abroad) cut(when string, change func()) {
	a.Helper()
	conn, before := a.open(), len(a.failures("denied", ""))
	defer conn.Close()
	change()
	a.eventually(when+": what was open ends", func() bool { return conn.Ping(a.ctx, "still there") != nil })
	a.eventually(when+": as denied", func() bool { return len(a.failures("denied", "")) > before })
}

// Pods of two meshes, of two trust domains with a CA and a ztunnel each, dial each other in
// mutual TLS by whole SPIFFE IDs, though namespace and ServiceAccount are the same. Whoever is
// not named, or whom no bundle proves, is not reached at all, and never in plaintext.
func TestWorkloadsOfTwoTrustDomainsDialEachOther(t *testing.T) {
	a := tellAbroad(t)
	third := a.neighbour("third", 102)
	ours, theirs := a.id(ourDomain), a.id(theirDomain)
	allow := func(td string) string { return strings.TrimPrefix(a.id(td), "spiffe://") }
	a.authorize("web", "rule", fmt.Sprintf("action: ALLOW, rules: [{from: [{source: {principals: [%q, %q]}}]}]", allow(ourDomain), allow(theirDomain)))

	a.turnedBack("nobody is named there", "unknown_peer", "-foreign-workloads names no workload there")
	a.names(a.one, theirDomain, theirs)
	a.names(a.two, ourDomain, ours)
	a.turnedBack("without a bundle", "tls", "this node has no bundle of that trust domain: the list of -federation of the CA")

	a.with(bySPIFFE(a.other, theirDomain), bySPIFFE(third, "third.example"))
	a.eventually("both nodes know the other domain's root", func() bool {
		return a.knowsAt(a.one, theirDomain) == 1 && a.knowsAt(a.one, "third.example") == 1 && a.knowsAt(a.two, ourDomain) == 1
	})
	a.overBoth(func(s *story, network string) {
		s.reached(a.ours.Place, network, a.them, 8080)
		s.reached(a.them.Place, network, a.ours, 8080)
		to, back := a.them.At(network, 8080).String(), a.ours.At(network, 8080).String()
		for direction, n := range map[string][2]*lab.Node{"outbound": {a.one, a.two}, "inbound": {a.two, a.one}} {
			s.record(n[0], "direction", direction, "dst.hbone_addr", to, "src.identity", ours, "dst.identity", theirs, "result", "ok", "path", "tunnel")
			s.record(n[1], "direction", direction, "dst.hbone_addr", back, "src.identity", theirs, "dst.identity", ours, "result", "ok", "path", "tunnel")
		}
	})

	a.isTold()
	a.rotates()

	a.isTaken()

	// Who is there proves to be of other.example: no other name of the same account fits.
	same, api := a.id("third.example"), strings.Replace(theirs, "/sa/web", "/sa/api", 1)
	a.cut("another domain is expected there", func() { a.names(a.one, "third.example", same) })
	a.turnedBack("another domain is expected there", "tls", "want "+same)
	a.names(a.one, theirDomain, api)
	a.turnedBack("another account is expected there", "tls", "want "+api)

	a.names(a.one, theirDomain, theirs)
	a.cut("nobody is named there any more", func() { a.names(a.one, theirDomain, "") })
	a.turnedBack("nobody is named there any more", "unknown_peer", "-foreign-workloads names no workload there")

	a.names(a.one, theirDomain, theirs)
	a.cut("the federation ended", func() { a.with("  []") })
	a.turnedBack("after the federation", "tls", "this node has no bundle of that trust domain")
	a.neverPlain()
}

// isTold wants the operator's commands to name the other domain's workload by its whole ID.
func (a *abroad) isTold() {
	a.Helper()
	conn, theirs := a.open(), a.id(theirDomain)
	defer conn.Close()
	at := []string{"--ztunnel", "127.0.0.1:15000"}
	for _, command := range [][]string{
		{"workloads"}, {"edges"}, {"connections", "-o", "wide"}, {"why", a.ours.String(), a.them.At("tcp4", 8080).String()},
	} {
		text, err := a.culvert(a.one, append(command, at...)...)
		if !strings.Contains(text, theirs) {
			a.Errorf("culvert %s does not name %s: %v\n%s", command[0], theirs, err, text)
		}
	}
}

// isTaken has our mesh get the address at which the other domain's workload is: who is there
// would be a guess, for what was open, too.
func (a *abroad) isTaken() {
	a.Helper()
	a.cut("our mesh got the address", func() {
		a.must(a.one.Believe(fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {namespace: %s, name: taken}, spec: {clusterIP: %v, ports: [{port: 80}]}}",
			a.namespace, a.them.At("tcp4", 0).Addr())))
	})
	a.turnedBack("our mesh has the address", "unknown_peer", "and of Service "+a.namespace+"/taken of this mesh")
	a.must(os.Remove(filepath.Join(a.one.Objects(), "service."+a.namespace+".taken.yaml")))
	a.open().Close()
}

// rotates replaces the other domain's root while our pod has a connection there.
func (a *abroad) rotates() {
	a.Helper()
	conn, next := a.open(), a.succeeds(a.other)
	defer conn.Close()
	goesOn := func(when string) {
		a.Helper()
		a.reached(a.ours.Place, "tcp4", a.them, 8080)
		a.reached(a.them.Place, "tcp4", a.ours, 8080)
		if err := conn.Ping(a.ctx, "still there"); err != nil {
			a.Errorf("%s, what was open: %v", when, err)
		}
	}
	next.addRoot()
	a.eventually("our node knows both roots", func() bool { return a.knowsAt(a.one, theirDomain) == 2 })
	goesOn("while a root comes")
	next.sign()
	a.eventually("a certificate of the next issuer", func() bool {
		_, err := a.culvert(a.two, "certs", "renew", a.id(theirDomain), "-o", "json", "--ztunnel-socket", filepath.Join(a.two.State, "admin.sock"))
		return err == nil
	})
	goesOn("by the next issuer")
	next.dropRoot()
	a.eventually("our node knows the next root alone", func() bool { return a.knowsAt(a.one, theirDomain) == 1 })
	goesOn("when the former root has gone")
}

// neverPlain wants no record of plaintext at either end.
func (a *abroad) neverPlain() {
	a.Helper()
	for _, n := range []*lab.Node{a.one, a.two} {
		records, err := n.Records()
		a.must(err)
		for _, r := range records {
			if r.Get("path") == "passthrough" {
				a.Errorf("%s: plaintext: %v", n.Name, r)
			}
		}
	}
}
