// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// All pods of a cluster may come at once, and nothing after them.
func TestNobodyStaysNewThoughNothingElseChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := registryOf(meshOf(1, 1))
		p := NewPeers(registry)
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		newcomers := func() int {
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.joined)
		}
		if n := newcomers(); n != 0 {
			t.Errorf("%d newcomers at start", n)
		}
		alone := meshOf(1, 1)
		alone.Workloads = alone.Workloads[:1]
		registry.Replace(alone)
		newcomers()
		registry.Replace(meshOf(1, 1))
		if n := newcomers(); n != 1 {
			t.Errorf("%d newcomers, want 1", n)
		}
		time.Sleep(patientFor - time.Second)
		if n := newcomers(); n != 1 {
			t.Errorf("%d newcomers after nine seconds, want 1", n)
		}
		time.Sleep(time.Second)
		if n := newcomers(); n != 0 {
			t.Errorf("%d newcomers are kept", n)
		}
		end()
		<-ended
	})
}
