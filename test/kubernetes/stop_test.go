// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

func TestTheAPIServerIsAwayForAsLongAsATestWants(t *testing.T) {
	c := useShared(t)
	c.makeWeb()
	start := c.stop("kube-apiserver")
	eventually(t, func() error {
		if _, err := c.kubectl("get", "--raw=/readyz"); err == nil {
			return errors.New("the API server still answers")
		}
		return nil
	})
	if restarts := cluster.Stop(c.name, "kube-apiserver"); restarts != nil { // again changes nothing
		t.Error(restarts)
	}
	start()
	c.hearBothNodes("asker1", "http://web")
}

// stop ends a program of the control plane, or a node, until start or the end of the test.
func (r *running) stop(name string) (start func()) {
	r.t.Helper()
	if err := cluster.Stop(r.name, name); err != nil {
		r.t.Fatal(err)
	}
	start = func() {
		if err := cluster.Continue(r.name, name); err != nil {
			r.t.Error(err)
		}
	}
	r.t.Cleanup(start)
	return start
}
