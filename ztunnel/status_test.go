// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// refuser is a CA that refuses the node's token.
type refuser struct{}

func (refuser) Issue(context.Context, spiffeid.ID, []byte, time.Duration) (certs.Issued, error) {
	return certs.Issued{}, nil
}

func (refuser) Check(context.Context) (certs.Answer, error) {
	return certs.Answer{}, &certs.Problem{Reason: "token_expired", Sentence: "the CA at ca:15012 refuses the token in /run/token: it expired"}
}

// newStatus is that of a ztunnel whose parts do not run.
func newStatus(t *testing.T) *status {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	log := slog.New(slog.DiscardHandler)
	s := &status{
		cfg:      Config{Workloads: "/etc/objects", NodeName: "node-1"},
		registry: workload.NewRegistry([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}),
		objects:  file.New("/etc/objects", file.Options{TrustDomain: td}),
		state:    func() error { return errors.New("it is in use by another ztunnel") },
		steering: func() error { return errors.New("the bpffs was unmounted") },
	}
	var err error
	s.pods, err = pods.New(pods.Config{
		Node: "node-1", Dir: filepath.Join(t.TempDir(), "sandboxes"), Registry: s.registry, Log: log,
		Certs: certs.New(certs.Config{TrustDomain: td, Node: "node-1", Issuer: refuser{}, Log: log, Remedy: (Config{}).remedy}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReadinessSaysASentenceForEachThingThatIsPending(t *testing.T) {
	s := newStatus(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.pods.Certs.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.pods.Certs.Standing().Reason == certs.NotAsked {
		<-tick.C
	}
	want := []string{
		"workloads: /etc/objects is not read yet (-workloads)",
		"CA: the CA at ca:15012 refuses the token in /run/token: it expired (-token-file)",
		"steering: the bpffs was unmounted",
		"state directory: it is in use by another ztunnel (-state-dir)",
	}
	if got := s.pending(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	s.registry.Replace(workload.Mesh{})
	if got := s.pending(); len(got) != 4 || !strings.HasPrefix(got[0], "sandboxes: ") {
		t.Errorf("with objects: %q", got)
	}
	s.steering, s.state = func() error { return nil }, func() error { return nil }
	if got := s.pending(); len(got) != 2 {
		t.Errorf("with steering and state: %q", got)
	}
}

// What Nodes say is only known later than what flags say.
func TestReadinessNamesAFlagThatContradictsTheNodes(t *testing.T) {
	s := newStatus(t)
	s.cfg.Kubeconfig, s.cfg.Workloads = "/kubeconfig", ""
	if got := s.pending()[0]; got != "workloads: the API server has not told all of them yet (-kubeconfig)" {
		t.Errorf("without objects: %q", got)
	}
	s.cfg.ExcludeCIDRs = cidrs("10.1.0.0/16")
	s.registry.Replace(workload.Mesh{CIDRs: cidrs("10.1.0.0/24", "240.1.0.0/16")})
	got := strings.Join(s.pending(), "\n")
	for _, want := range []string{
		"CIDRs of Nodes and ServiceCIDRs: excluded CIDR 10.1.0.0/16 holds all of 10.1.0.0/24", "(-exclude-cidrs, -mesh-cidrs)",
		"240.1.0.0/16", "(-stand-in-cidrs)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not said: %s", want, got)
		}
	}
}

func TestThePluginsSnapshotIsWrittenWhenNamespacesChange(t *testing.T) {
	s := newStatus(t)
	s.state = func() error { return nil }
	s.snapshotFile = filepath.Join(t.TempDir(), "snapshot.json")
	write := func(namespaces map[string]workload.Namespace) bool {
		t.Helper()
		os.Remove(s.snapshotFile)
		s.registry.Replace(workload.Mesh{Namespaces: namespaces})
		s.snapshot()
		_, err := os.Stat(s.snapshotFile)
		return err == nil
	}
	if !write(nil) {
		t.Error("not at first")
	}
	if write(map[string]workload.Namespace{}) {
		t.Error("nothing changed")
	}
	for _, meshed := range []bool{false, true} {
		if !write(map[string]workload.Namespace{"shop": {Meshed: meshed}}) {
			t.Errorf("a namespace came or changed, meshed %v", meshed)
		}
	}
}

// Series are dropped when there are no pods of their labels: the names must be
// those that connections count under, which are not the pods'.
func TestWorkloadsAreNamedAsInTheLabelsOfConnections(t *testing.T) {
	s := newStatus(t)
	s.registry.Replace(workload.Mesh{Workloads: workload.Pack(
		workload.Workload{UID: "1", Namespace: "shop", Name: "web-5d9c-x", Owner: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
	)})
	got := s.workloads()
	if len(got) != 1 || !got[metrics.Workload{Namespace: "shop", Workload: "web"}] {
		t.Errorf("%v", got)
	}
}

func TestEveryReasonOfAFlagNamesIt(t *testing.T) {
	for reason, flag := range map[certs.Reason]string{
		certs.TokenFile: "-token-file", "token_expired": "-token-file", "token_key_unknown": "-jwks", "token_audience_wrong": "-audience",
		"account_not_trusted": "-node-accounts", certs.RootFile: "-ca-root", certs.CACertificate: "-ca-root", certs.CAName: "-ca-server-name",
		certs.Unreachable: "-ca-address", certs.TrustDomain: "-trust-domain", certs.NodeName: "-node-name",
	} {
		if got := (Config{}).remedy(reason); !strings.Contains(got, flag) {
			t.Errorf("%s: %q, want %s", reason, got, flag)
		}
	}
	for _, reason := range []certs.Reason{certs.Signs, certs.NotAsked, certs.Failed, "ca_not_ready"} {
		if got := (Config{}).remedy(reason); got != "" {
			t.Errorf("%s: %q, want nothing", reason, got)
		}
	}
	spire := Config{SPIREAgentSocket: "/run/agent.sock"}
	for reason, flag := range map[certs.Reason]string{
		certs.Unreachable: "-spire-admin-socket", certs.TrustDomain: "-trust-domain", certs.NotDelegate: "authorized_delegates", certs.NoEntry: "",
	} {
		if got := spire.remedy(reason); !strings.Contains(got, flag) || (got == "") != (flag == "") {
			t.Errorf("SPIRE: %s: %q, want %s", reason, got, flag)
		}
	}
}

// A namespace got its label, and ztunnel was killed before that was stored. The plugin's
// snapshot knows it.
func TestAStoredStateTakesNoNamespaceOutOfThePluginsSnapshot(t *testing.T) {
	s := newStatus(t)
	s.state = func() error { return nil }
	s.snapshotFile = filepath.Join(t.TempDir(), "snapshot.json")
	before := enroll.Snapshot{AllNamespaces: []string{"new", "open", "shop"}, MeshedNamespaces: []string{"new", "shop"}}
	if err := enroll.WriteSnapshot(s.snapshotFile, before); err != nil {
		t.Fatal(err)
	}
	mesh := workload.Mesh{Namespaces: map[string]workload.Namespace{"open": {}, "shop": {}}}
	for _, tc := range []struct {
		stored bool
		meshed []string
	}{{true, []string{"new", "shop"}}, {false, []string{}}} { // what is live counts
		mesh.Stored = tc.stored
		s.registry.Replace(s.stricter(mesh))
		s.snapshot()
		if got, err := enroll.ReadSnapshot(s.snapshotFile); err != nil || !slices.Equal(got.MeshedNamespaces, tc.meshed) {
			t.Errorf("stored %v: %+v, %v; want %v", tc.stored, got, err, tc.meshed)
		}
	}
	if mesh.Namespaces["shop"].Meshed {
		t.Error("the source's own map was written to")
	}
}

// A copy of /config_dump says when it was taken: its file's time is that of the copy.
func TestTheDumpSaysWhen(t *testing.T) {
	before := time.Now()
	when, is := newStatus(t).dumps()["time"]().(time.Time)
	if !is || when.Before(before.Round(0)) || when.After(time.Now()) || when.Location() != time.UTC {
		t.Errorf("%v, between %v and now", when, before)
	}
}
