// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"
)

// A rolling restart costs clients in the mesh no request that it does not cost those of
// the same pods outside of it.
func TestARollingRestartCostsTheMeshNoRequestMore(t *testing.T) {
	m := useMeshAlone(t)
	meshed := m.openShop("rolled", "culvert.dev/mesh=enabled")
	control := m.openShop("control")
	m.carried(meshed.namespace, true)
	begin := time.Now()
	for range 2 {
		for _, s := range []*shop{meshed, control} {
			s.kubectlHere("rollout", "restart", "deployment/web")
		}
		for _, s := range []*shop{meshed, control} {
			s.kubectlHere("rollout", "status", "deployment/web", "--timeout=90s")
		}
	}
	in, out := meshed.since(begin, "load"), control.since(begin, "load")
	t.Logf("in the mesh %d requests went well and %d failed; outside of it %d and %d", in.OK, in.Failed, out.OK, out.Failed)
	if in.Failed > out.Failed {
		t.Errorf("the mesh has %d failures more, at last %q", in.Failed-out.Failed, in.Error)
	}
	if in.OK == 0 || out.OK == 0 {
		t.Error("there was no load")
	}
}
