// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

func TestConfigNamesEveryProblemAtOnce(t *testing.T) {
	err := Config{TrustDomain: "not a domain", OwnPod: "x", Drain: -1}.Validate()
	for _, want := range []string{"node name", "workloads directory (-workloads) or an API server (-kubeconfig)", "CA address", "CA root file", "token file",
		"bpffs directory", "cgroup directory", "state directory", "trust domain", "own pod", "drain time"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in: %v", want, err)
		}
	}
}

func TestCertificatesComeFromOnePlace(t *testing.T) {
	ca := Config{CAAddress: "ca:1", CARoot: "/root.pem", TokenFile: "/token"}
	spire := Config{SPIREAgentSocket: "/run/agent.sock", SPIREAdminSocket: "/run/admin.sock"}
	both, timed, long := spire, spire, spire
	both.CAAddress, timed.TTL, long.SPIREAdminSocket = ca.CAAddress, time.Hour, "/"+strings.Repeat("x", 107)
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{ca, ""}, {spire, ""},
		{Config{}, "(-ca-address), or SPIRE's agent (-spire-agent-socket)"},
		{both, "(-spire-agent-socket) or from a CA (-ca-address), not from both"},
		{Config{SPIREAgentSocket: "/run/agent.sock"}, "both are required"}, {Config{SPIREAdminSocket: "/run/admin.sock"}, "both are required"},
		{timed, "-ttl is for a CA"}, {long, "too long for a socket's path"},
	} {
		if err := tc.cfg.oneIssuer(); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
}

func TestWorkloadsComeFromOnePlace(t *testing.T) {
	directory := Config{Workloads: "/objects", MeshCIDRs: cidrs("10.0.0.0/8")}
	apiServer := Config{Kubeconfig: "/kubeconfig"}
	both := directory
	both.Kubeconfig = apiServer.Kubeconfig
	for want, c := range map[string]Config{
		"": directory, "-kubeconfig) is required": {}, "not from both": both,
		"mesh CIDRs are required with a workloads directory": {Workloads: "/objects"},
	} {
		if err := c.oneSource(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := apiServer.oneSource(); err != nil {
		t.Errorf("an API server knows the CIDRs: %v", err)
	}
}

// reports is a source of which only the Stats are known.
type reports struct {
	source.Source
	stats source.Stats
}

func (r reports) Stats() source.Stats { return r.stats }

func TestAnObjectThatIsWrongEnforcesOriginsAllTheSame(t *testing.T) {
	for _, tc := range []struct {
		stats   source.Stats
		current bool
	}{
		{source.Stats{}, true},
		{source.Stats{LastError: "PeerAuthentication shop/misspelt: unknown field"}, true},
		{source.Stats{LastError: "Pod: connection refused", Old: true}, false},
	} {
		if got := (Config{}).origins(reports{stats: tc.stats}).Current(); got != tc.current {
			t.Errorf("current is %t for %+v", got, tc.stats)
		}
	}
}
