// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"testing"
	"time"
)

// The API server is killed under load, for two minutes: nothing fails. A ztunnel that is
// killed meanwhile serves its pods again by what it knew, and when the API server is back,
// what is said to it takes effect.
func TestTheMeshServesWhileTheAPIServerIsAway(t *testing.T) {
	const away = 2 * time.Minute
	m := useMesh(t)
	s := m.openShop("served", "culvert.dev/mesh=enabled")
	m.makeNamespace("later")
	m.makePodIn("later", "joins", "node1")
	m.mustKubectl("wait", "--namespace=later", "--for=condition=Ready", "pod/joins", "--timeout=60s")
	m.carried(s.namespace, true)
	wire := s.sniff(s.word)
	eventually(t, wire.sealed)

	gone := time.Now()
	start := m.stop("kube-apiserver")
	eventually(t, func() error {
		if _, err := m.kubectl("get", "--raw=/readyz"); err == nil {
			return errors.New("the API server still answers")
		}
		return nil
	})
	time.Sleep(away / 2)
	killed := time.Now()
	m.kill("node1", "ztunnel")
	eventually(t, func() error { return m.ready("node1") })
	again := time.Now().Add(time.Second)
	time.Sleep(time.Until(gone.Add(away)))

	start()
	eventually(t, func() error {
		_, err := m.kubectl("label", "namespace", "later", "culvert.dev/mesh=enabled")
		return err
	})
	back := time.Now()
	m.carried("later", true)
	t.Logf("a label that was set when the API server was back took effect %.1f s later", time.Since(back).Seconds())
	if err := wire.sealed(); err != nil {
		t.Error(err)
	}
	end := time.Now()
	for _, client := range clients {
		for _, part := range []struct {
			when     string
			from, to time.Time
		}{
			{"the API server was away", gone, killed},
			{"ztunnel was back without it", again, end},
		} {
			if c := s.between(part.from, part.to, client); c.Failed > 0 || c.OK == 0 {
				t.Errorf("while %s, %s: %d well, %d failed, at last with %q", part.when, client, c.OK, c.Failed, c.Error)
			}
		}
	}
	t.Logf("without an API server, ztunnel was ready %.1f s after it was killed; in that time %d requests failed",
		again.Sub(killed).Seconds()-1, s.between(killed, again, "load").Failed)
}

// ready is an error until ztunnel of a node says that it is.
func (m *installed) ready(node string) error {
	_, err := m.tryEnter(node, "curl", "--silent", "--show-error", "--fail-with-body", "http://127.0.0.1:15021/healthz/ready")
	return err
}
