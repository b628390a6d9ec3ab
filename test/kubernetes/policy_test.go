// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"testing"
)

// The object that Istio's users know, in a namespace or mesh-wide in istio-system.
const peerAuthentication = `apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: %s}
spec: {mtls: {mode: %s}}
`

// PERMISSIVE lets a client outside of the mesh in and STRICT refuses it, in a namespace
// and mesh-wide; a client in the mesh is let in by both.
func TestPeerAuthenticationOpensAndClosesAsItSays(t *testing.T) {
	m := useMesh(t)
	m.makeNamespace("outside")
	m.makePodIn("outside", "stranger", "node1")
	m.makeNamespace("istio-system")
	s := m.openShop("policed")
	s.join()
	m.mustKubectl("wait", "--namespace=outside", "--for=condition=Ready", "pod/stranger", "--timeout=60s")

	expect := func(when string, strangers bool) {
		t.Helper()
		eventually(t, func() error { return s.letsIn("outside", "stranger", strangers) })
		if err := s.letsIn(s.namespace, "client", true); err != nil {
			t.Errorf("%s: a client in the mesh: %v", when, err)
		}
	}
	expect("without a policy", true)
	m.police(s.namespace, "STRICT")
	expect("STRICT in the namespace", false)
	m.police(s.namespace, "PERMISSIVE")
	expect("PERMISSIVE in the namespace", true)
	m.police("istio-system", "STRICT")
	expect("PERMISSIVE in the namespace, STRICT mesh-wide", true)
	m.mustKubectl("delete", "peerauthentication", "default", "--namespace="+s.namespace)
	expect("STRICT mesh-wide", false)
	m.police("istio-system", "PERMISSIVE")
	expect("PERMISSIVE mesh-wide", true)
}

// police applies a PeerAuthentication. It goes with its namespace.
func (m *installed) police(namespace, mode string) {
	m.t.Helper()
	if err := m.apply(fmt.Sprintf(peerAuthentication, namespace, mode)); err != nil {
		m.t.Fatal(err)
	}
}

// join puts the shop into the mesh.
func (s *shop) join() {
	s.t.Helper()
	s.kubectlHere("label", "namespace", s.namespace, "culvert.dev/mesh=enabled")
	(&installed{s.running}).carried(s.namespace, true)
}

// letsIn is an error unless a pod is let into all of the shop, in both IP versions, or
// into none of it, as wanted.
func (s *shop) letsIn(namespace, pod string, want bool) error {
	for _, service := range []string{"web", "web6"} {
		for range 2 { // a pod on either node, more often than not
			url := "http://" + service + "." + s.namespace
			answer, err := s.kubectl("exec", "--namespace="+namespace, pod, "--", "/bin/podapp", "get", url)
			if want && err != nil {
				return err
			}
			if !want && err == nil {
				return errors.New("it heard " + answer)
			}
		}
	}
	return nil
}
