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

const networkPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: %[1]s}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}]
    ports: [{port: %[2]v}]
`

// Who is let in goes by the pods' own ports, which nobody but ztunnel sees: the pod network
// of the cluster knows no NetworkPolicy.
func TestANetworkPolicyIsKeptBetweenPodsOfTheMesh(t *testing.T) {
	m := useMesh(t)
	m.makeNamespace("beside")
	m.makePodIn("beside", "neighbour", "node1")
	m.mustKubectl("label", "namespace", "beside", "culvert.dev/mesh=enabled")
	s := m.openShop("ruled")
	s.join()
	m.carried("beside", true)

	expect := func(when string, client, neighbour bool) {
		t.Helper()
		eventually(t, func() error {
			if err := errors.Join(s.letsIn(s.namespace, "client", client), s.letsIn("beside", "neighbour", neighbour)); err != nil {
				return fmt.Errorf("%s: %w", when, err)
			}
			return nil
		})
	}
	rule := func(port any) {
		t.Helper()
		if err := m.apply(fmt.Sprintf(networkPolicy, s.namespace, port)); err != nil {
			t.Fatal(err)
		}
	}
	rule(9999)
	expect("nobody says what the policy is for", true, true)
	s.kubectlHere("label", "namespace", s.namespace, "culvert.dev/network-policy=enforce")
	expect("another port", false, false)
	rule("web")
	expect("this port, of pods of the namespace", true, false)
	s.kubectlHere("label", "namespace", s.namespace, "--overwrite", "culvert.dev/network-policy=warn")
	expect("the policy only warns", true, true)
}
