// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"strings"
	"sync"
	"testing"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

// What ADD would refuse, CHECK does not call good.
func TestCheckOfAPodThatTheKernelDoesNotConfirmFails(t *testing.T) {
	const acceptLocal = "/proc/sys/net/ipv4/conf/lo/accept_local"
	w := newWorld(t)
	w.start()
	web, db := w.pod("web", "10.1.0.1", true), w.pod("db", "10.1.0.2", true)
	w.add(web, enroll.Enrolled)
	w.add(db, enroll.Enrolled)
	w.setSysctl("web", acceptLocal, "1")
	if err := w.pods.Check(t.Context(), web); err == nil || !strings.Contains(err.Error(), "accept_local") {
		t.Errorf("CHECK: %v", err)
	}
	if err := w.pods.Check(t.Context(), db); err != nil {
		t.Errorf("CHECK of another pod: %v", err)
	}
	w.setSysctl("web", acceptLocal, "0")
	if err := w.pods.Check(t.Context(), web); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

// For the race detector.
func TestChecksRunBesideEachOtherAndRounds(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	var checks sync.WaitGroup
	for range 4 {
		checks.Go(func() {
			for range 10 {
				if err := w.pods.Check(t.Context(), req); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
		})
	}
	checks.Wait()
}
