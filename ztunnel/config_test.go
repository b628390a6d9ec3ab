// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"strings"
	"testing"
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
