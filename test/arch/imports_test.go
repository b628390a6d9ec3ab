// SPDX-License-Identifier: Apache-2.0

// Package arch holds the rules of the tree that a compiler does not check:
// who may import whom, which third party is confined where, and what every
// file must carry. They fail the build, because rules in prose drift.
package arch

import (
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// imports is the import table of the mesh. "a, b < c < d": c may import a and
// b; d may import c and, as in go/build/deps_test.go, all that c may import.
// "dir/*" is every package below dir. An unlisted edge is forbidden: imports
// follow the packet, so an edge that points up the path is a design change.
const imports = `
	NONE < identity, identity/identityv1;

	# What a tunnel bounds for its peer, the CA bounds for a node, and a node for the CA.
	NONE < rate;

	# Files that another hand writes, on the node and at the CA.
	NONE < regular;

	# Files of operators in which each word counts.
	NONE < strictyaml;

	# The plugin's contract and ztunnel's admin listen in the same way, and may not
	# import each other.
	NONE < unixsocket < cni/enroll, ztunnel/admin;

	# What a machine's own processes may read of ztunnel, and of the CA.
	NONE < loopback < ztunnel/admin, identity/server, cmd/culvert-identity;

	NONE < ztunnel/metrics, ztunnel/edges, ztunnel/events, ztunnel/socket, ztunnel/buffer, ztunnel/quota, ztunnel/workers, ztunnel/hbone/aead, ztunnel/hbone/h2;
	NONE < test/arch, test/skips;
	NONE < ztunnel/mountinfo < test/env;

	identity < ztunnel/workload < ztunnel/policy < ztunnel/networkpolicy;
	ztunnel/workload, ztunnel/policy, ztunnel/networkpolicy < ztunnel/source < ztunnel/source/*;
	# Whom pods dial in other trust domains.
	identity, regular, strictyaml, ztunnel/workload < ztunnel/source/foreign;

	ztunnel/hbone/aead, ztunnel/socket, ztunnel/buffer, rate < ztunnel/hbone/record < ztunnel/hbone;
	identity, ztunnel/hbone/h2, ztunnel/quota, ztunnel/workers < ztunnel/hbone;
	identity, identity/identityv1, rate, regular < ztunnel/certs;
	# What pods may have of it themselves.
	identity, ztunnel/certs < ztunnel/workloadapi;
	# SPIRE's agent in the CA's place.
	NONE < ztunnel/spire/delegatedv1;
	identity, ztunnel/certs, ztunnel/spire/delegatedv1 < ztunnel/spire;
	ztunnel/socket < ztunnel/netns;
	ztunnel/netns, ztunnel/mountinfo, flock < ztunnel/redirect;
	ztunnel/workload, ztunnel/policy, ztunnel/networkpolicy, ztunnel/hbone, ztunnel/socket, ztunnel/metrics, ztunnel/edges, ztunnel/events, ztunnel/quota, rate < ztunnel/proxy;

	ztunnel/redirect, ztunnel/netns, ztunnel/certs, ztunnel/proxy, ztunnel/hbone, ztunnel/workload < ztunnel/pods;
	ztunnel/policy, ztunnel/networkpolicy, ztunnel/metrics, cni/enroll < ztunnel/pods;

	# What is on the wires of a node and its pods while a mark is sent.
	ztunnel/netns < ztunnel/verify;

	# What is told of pods, to those who look at the API server.
	ztunnel/pods, ztunnel/source/kube, rate < ztunnel/report;

	# What Istio's tools read of workloads, services and policies.
	ztunnel/workload, ztunnel/policy < ztunnel/configdump;

	# From which level on each part of it logs.
	NONE < ztunnel/loglevel < ztunnel/admin, cmd/ztunnel, cli;

	# Who else gets the access records.
	NONE < ztunnel/otlp;

	NONE < ztunnel/collect;

	ztunnel/*, cni/enroll < ztunnel < cmd/ztunnel;

	# What the programs have in common.
	NONE < ztunnel/journal < cmd/program < cmd/ztunnel, cmd/culvert-identity;

	# No part of ztunnel but the log: the plugin is on kubelet's critical path. Its
	# installer, which is the same program, has flags and a log like the others.
	cni/enroll < cni;
	NONE < cni/install;
	cni, cni/install, cmd/program < cmd/culvert-cni;

	NONE < flock;
	# Keys that another process has.
	NONE < identity/signing;
	identity/signing, unixsocket < signer;
	identity, identity/signing, flock, regular < identity/ca < identity/ca/cluster;
	# The CA and nodes obey the deny set, and operators write it.
	identity, regular, strictyaml < identity/deny < ztunnel/certs;
	identity, regular < identity/join;
	# The CA keeps the ledger, and operators verify it.
	flock < identity/ledger;
	# Replicas share what they know of join tokens in a Secret.
	identity/join < identity/ca/cluster;
	# Who has the root of the CA, in its place.
	regular < identity/vault < cmd/culvert-identity;
	# A process outside Kubernetes, as ztunnel, asks the CA; it holds no pod's identity.
	flock, identity, identity/identityv1, identity/join, regular < identity/process;
	identity/ca, identity/deny, identity/join, identity/ledger, identity/identityv1, rate, regular < identity/server;
	# The bundles of other trust domains, which the CA tells nodes of.
	identity, identity/identityv1, identity/ca, rate, regular, strictyaml < identity/federation < identity/server, cmd/culvert-identity;
	identity < identity/taint;
	identity, identity/ca, regular < identity/rekey;
	identity/rekey < identity/server, identity/ca/cluster, cli/fleet, cli;
	# What is said of policies is what the source makes of them.
	NONE < identity/lease;
	identity/lease, rate, ztunnel/source/kube < identity/verdict;
	identity/lease < identity/ca/cluster;
	identity/server, identity/join, identity/rekey, identity/ca/cluster, identity/taint, identity/verdict, ztunnel/source, ztunnel/source/* < cmd/culvert-identity;

	# The operator's commands: they read what programs say of themselves, and a CA's files.
	NONE < cli/kubeapi < cli/fleet, cli/custody;
	ztunnel/policy, ztunnel/networkpolicy, ztunnel/configdump < cli/fleet;
	identity/ca < cli/custody;
	identity, cli/fleet, cli/custody < cli/check;
	# How commands tell what they do, and what of it is no secret.
	NONE < cli/progress, cli/report < cli;
	# What policies mean to the source that ztunnel reads by.
	ztunnel/source, ztunnel/source/file < cli/lint < cli;
	# What policies would say, and what they said.
	identity, ztunnel/policy < cli/explain, cli/records < cli;
	ztunnel/networkpolicy < cli/explain, cli/records < cli;
	# Where a connection ends, by all that the nodes say.
	cli/fleet, cli/explain < cli/why < cli;
	# That what a connection says is on no wire.
	identity, cli/fleet, cli/why < cli/verify < cli;
	# Who talks to whom, as a page; and what policies say of it.
	cli/kubeapi, cli/fleet, cli/explain, cli/why < cli/livemap < cli;
	loopback < cli;
	# What a path carries, measured from one of its ends.
	NONE < cli/speed < cli;
	# Pods between which a cluster is measured.
	cli/kubeapi, cli/speed < cli/stage < cli;
	identity, identity/deny, identity/join, identity/ledger, identity/process, ztunnel/policy, cli/kubeapi, cli/fleet, cli/custody, cli/check < cli < cmd/culvert;

	identity, identity/*, cni, cni/*, ztunnel, ztunnel/*, cli, test/env < test/lab, test/lab/*;
	test/lab/agent < test/lab/app;
	test/lab/* < test/lab;
	test/lab < test/e2e, test/demo, test/map/stage, test/soak, bench, bench/steering;
	# It replaces the issuer as an operator does.
	identity/ca < test/soak;
	NONE < bench/host < bench/steering;
	NONE < bench/load, bench/proc, bench/reference;
	bench/host, bench/load, bench/proc, bench/reference < bench;
	bench/host, bench/load, bench/proc, test/lab < bench/attacks;

	# The real cluster runs the programs as users do: it imports none of them.
	NONE < test/kubernetes/binaries, test/kubernetes/cluster < test/kubernetes;
	NONE < test/kubernetes/certmanager, test/kubernetes/coredns, test/kubernetes/kubeall, test/kubernetes/pause, test/kubernetes/podapp, test/kubernetes/unlimited;
	NONE < test/kubernetes/spire/ejbca/api/ejbca;
	NONE < test/kubernetes/vault;
	NONE < test/kubernetes/vault/empty/alicloudkms, test/kubernetes/vault/empty/api/option, test/kubernetes/vault/empty/awskms, test/kubernetes/vault/empty/azurekeyvault;
	NONE < test/kubernetes/vault/empty/cloudsqlconn, test/kubernetes/vault/empty/cloudsqlconn/mysql/mysql, test/kubernetes/vault/empty/cloudsqlconn/postgres/pgxv4, test/kubernetes/vault/empty/discover;
	NONE < test/kubernetes/vault/empty/discover/provider/k8s, test/kubernetes/vault/empty/gcpckms, test/kubernetes/vault/empty/monitoring/apiv3, test/kubernetes/vault/empty/ocikms;
	NONE < test/kubernetes/vault/empty/okta/okta, test/kubernetes/vault/empty/plugincontainer, test/kubernetes/vault/empty/resource/resource, test/kubernetes/vault/empty/stackdriver;
	NONE < test/kubernetes/vault/empty/stackdriver/vault;

	# A node's certificates and their metrics, as they are; the CA is the program.
	identity/identityv1, ztunnel/certs, ztunnel/metrics, ztunnel/proxy, ztunnel/otlp, cni/install < test/alerts;

	NONE < deploy/oci < deploy/images;
	NONE < deploy/chart;

	# Both ends of a connection in one process, with all that carries it.
	identity, identity/ca, ztunnel/certs, ztunnel/proxy, ztunnel/netns, test/env < test/stress;
`

// private packages are parts of one other package: being reachable through
// it gives nobody else a right to import them.
var private = map[string]string{
	"ztunnel/hbone/aead":   "ztunnel/hbone/record",
	"ztunnel/hbone/record": "ztunnel/hbone",
	"ztunnel/hbone/h2":     "ztunnel/hbone",
}

// inTests may be imported by any _test.go file.
var inTests = []string{"identity/ca", "identity/server", "test/env"}

func TestImportsFollowThePacket(t *testing.T) {
	packages := listPackages(t)
	table := parseTable(t, imports, slices.Collect(maps.Keys(packages)))
	for name, p := range packages {
		if !table.has(name) && !isFake(name) {
			t.Errorf("package %s is not in the import table of test/arch: say what it may import and who may import it", name)
			continue
		}
		for _, to := range within(p.Imports) {
			if why := table.refuse(name, to); why != "" {
				t.Errorf("%s imports %s: %s", name, to, why)
			}
		}
		for _, to := range within(p.TestImports, p.XTestImports) {
			if to == name || slices.Contains(inTests, to) || isFake(to) {
				continue
			}
			if why := table.refuse(name, to); why != "" {
				t.Errorf("a test of %s imports %s: %s; a _test.go file may add only %s and fakes named ...test",
					name, to, why, strings.Join(inTests, ", "))
			}
		}
	}
}

func TestTheTableRefusesWhatItDoesNotList(t *testing.T) {
	table := parseTable(t, imports, []string{"ztunnel/policy", "ztunnel/source/file", "cni"})
	for _, tc := range []struct {
		from, to string
		ok       bool
	}{
		{"ztunnel/policy", "ztunnel/workload", true},
		{"ztunnel/policy", "identity", true}, // through workload
		{"ztunnel/policy", "ztunnel/hbone", false},
		{"ztunnel/workload", "ztunnel/policy", false},
		{"ztunnel/source/file", "ztunnel/source", true},
		{"ztunnel/source/file", "ztunnel/source/kube", false},
		{"ztunnel", "ztunnel/source/file", true},
		{"ztunnel/proxy", "ztunnel/hbone", true},
		{"ztunnel/proxy", "ztunnel/hbone/record", false},
		{"cni", "ztunnel/netns", false},
		{"identity", "identity/ca", false},
		{"test/e2e", "ztunnel", true},
		{"ztunnel", "test/lab", false},
		{"ztunnel/certs/certstest", "ztunnel/certs", true},
		{"ztunnel/certs/certstest", "identity/ca", true},
		{"ztunnel/certs/certstest", "ztunnel/hbone", false},
		{"ztunnel", "ztunnel/certs/certstest", false},
	} {
		if why := table.refuse(tc.from, tc.to); (why == "") != tc.ok {
			t.Errorf("%s imports %s: refuse says %q, want allowed=%v", tc.from, tc.to, why, tc.ok)
		}
	}
}

// table maps a package to all it may import.
type table map[string]map[string]bool

func (tb table) has(name string) bool { _, ok := tb[name]; return ok }

// refuse says why from must not import to, or "".
func (tb table) refuse(from, to string) string {
	if owner, ok := private[to]; ok && from != owner && !strings.HasPrefix(from, "test/") {
		return to + " is a part of " + owner + ", which alone may import it"
	}
	if isFake(to) {
		return "a fake is for _test.go files"
	}
	may := tb[from]
	if isFake(from) {
		may = maps.Clone(tb[path.Dir(from)])
		if may == nil {
			may = make(map[string]bool)
		}
		may[path.Dir(from)] = true
		for _, name := range inTests {
			may[name] = true
		}
	}
	if may[to] {
		return ""
	}
	if len(may) == 0 {
		return "the table in test/arch lets it import no package of this repository"
	}
	return "the table in test/arch lets it import only " + strings.Join(slices.Sorted(maps.Keys(may)), ", ")
}

// isFake reports whether name is a package of fakes, beside what it fakes.
func isFake(name string) bool {
	return strings.Count(name, "/") >= 1 && strings.HasSuffix(name, "test") && path.Base(name) == path.Base(path.Dir(name))+"test"
}

// parseTable reads text for the names in it and the packages that exist.
func parseTable(t *testing.T, text string, packages []string) table {
	t.Helper()
	known := make(map[string]bool)
	for _, name := range packages {
		known[name] = true
	}
	rules := readRules(text)
	for _, rule := range rules {
		for _, group := range rule {
			for _, name := range group {
				if name != "NONE" && !strings.HasSuffix(name, "/*") {
					known[name] = true
				}
			}
		}
	}
	direct := make(table)
	for _, rule := range rules {
		for i := 1; i < len(rule); i++ {
			for _, from := range expand(rule[i], known) {
				if direct[from] == nil {
					direct[from] = make(map[string]bool)
				}
				for _, to := range expand(rule[i-1], known) {
					direct[from][to] = true
				}
			}
		}
	}
	return direct.closure(t)
}

// readRules returns, for each rule, its groups from left to right.
func readRules(text string) [][][]string {
	var clean strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		clean.WriteString(line)
	}
	var rules [][][]string
	for rule := range strings.SplitSeq(clean.String(), ";") {
		if strings.TrimSpace(rule) == "" {
			continue
		}
		var groups [][]string
		for group := range strings.SplitSeq(rule, "<") {
			var names []string
			for name := range strings.SplitSeq(group, ",") {
				names = append(names, strings.TrimSpace(name))
			}
			groups = append(groups, names)
		}
		rules = append(rules, groups)
	}
	return rules
}

// expand resolves "NONE" and "dir/*".
func expand(group []string, known map[string]bool) []string {
	var names []string
	for _, pattern := range group {
		dir, wild := strings.CutSuffix(pattern, "/*")
		switch {
		case pattern == "NONE":
		case !wild:
			names = append(names, pattern)
		default:
			for name := range known {
				if strings.HasPrefix(name, dir+"/") && !isFake(name) {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// closure adds what is reachable, and fails on a cycle.
func (tb table) closure(t *testing.T) table {
	t.Helper()
	closed := make(table)
	for name := range tb {
		seen := make(map[string]bool)
		var walk func(string)
		walk = func(at string) {
			for to := range tb[at] {
				if !seen[to] {
					seen[to] = true
					walk(to)
				}
			}
		}
		walk(name)
		if seen[name] {
			t.Errorf("the import table has a cycle through %s", name)
		}
		closed[name] = seen
	}
	return closed
}
