// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

func TestAKilledKubeletComesBackAndItsPodsNeverWent(t *testing.T) {
	c := useShared(t)
	c.makeWeb()
	before := c.enter("node1", "pgrep", "--exact", "kubelet")
	c.enter("node1", "kill", "-KILL", before)
	eventually(t, func() error {
		now, err := c.tryEnter("node1", "pgrep", "--exact", "kubelet")
		if err == nil && now == before {
			err = fmt.Errorf("the kubelet is still process %s", now)
		}
		return err
	})
	c.hearBothNodes("asker1", "http://web")
	if restarts := c.restarts("asker1"); restarts != "0" {
		t.Errorf("asker1 was restarted %s times", restarts)
	}
}

// A machine that is switched off and on has its disk, and nothing else that it had.
func TestANodeThatIsKilledBootsAndItsPodsRunAgain(t *testing.T) {
	c := useShared(t)
	c.makeWeb()
	c.enter("node2", "touch", "/opt/cni/bin/on-disk", "/run/in-memory")
	pid, err := cluster.NodePID(c.name, "node2")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if restarts := c.restarts("asker2"); restarts != "1" {
			return fmt.Errorf("asker2 was restarted %s times, want once", restarts)
		}
		return nil
	})
	c.hearBothNodes("asker2", "http://web")
	c.enter("node2", "rm", "/opt/cni/bin/on-disk")
	if out, err := c.tryEnter("node2", "stat", "/run/in-memory"); err == nil {
		t.Errorf("what was in memory is there still: %s", out)
	}
}

// restarts is how often the container of a pod was started again.
func (r *running) restarts(pod string) string {
	r.t.Helper()
	return r.mustKubectl("get", "pod", pod, "--output=jsonpath={.status.containerStatuses[0].restartCount}")
}
