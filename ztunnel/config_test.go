// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"strings"
	"testing"
)

func TestConfigNamesEveryProblemAtOnce(t *testing.T) {
	err := Config{TrustDomain: "not a domain", OwnPod: "x", Drain: -1}.Validate()
	for _, want := range []string{"node name", "workloads directory", "CA address", "CA root file", "token file",
		"bpffs directory", "cgroup directory", "state directory", "mesh CIDRs", "trust domain", "own pod", "drain time"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in: %v", want, err)
		}
	}
}
