// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

// In three combinations Istio's code departs from its documentation, of which the meaning
// is ours (docs/policy.md).
func TestModesMeanWhatIsDocumentedWhereIstiosCodeDeparts(t *testing.T) {
	for _, c := range []struct {
		name     string
		policies []PeerAuthentication
		strict   map[uint16]bool
	}{
		{"mesh STRICT, workload PERMISSIVE, a port STRICT: it is STRICT",
			[]PeerAuthentication{mesh(Strict), selecting(Permissive, map[uint16]Mode{8080: Strict})}, map[uint16]bool{8080: true, 80: false}},
		{"the same with DISABLE",
			[]PeerAuthentication{mesh(Strict), selecting(Disable, map[uint16]Mode{8080: Strict})}, map[uint16]bool{8080: true, 80: false}},
		{"mesh STRICT, namespace and workload UNSET, a port PERMISSIVE: only that port opens",
			[]PeerAuthentication{mesh(Strict), namespace(Unset), selecting(Unset, map[uint16]Mode{8080: Permissive})}, map[uint16]bool{8080: false, 80: true}},
		{"mesh STRICT, workload UNSET, a port DISABLE: that port opens",
			[]PeerAuthentication{mesh(Strict), selecting(Unset, map[uint16]Mode{8080: Disable})}, map[uint16]bool{8080: false, 80: true}},
	} {
		s := NewSet()
		s.Replace(Objects{RootNamespace: root, PeerAuthentications: c.policies})
		for port, strict := range c.strict {
			refused := s.AllowInbound(Request{Dst: web, Port: port}) != nil
			if refused != strict || (s.Mode(web, port) == Strict) != strict {
				t.Errorf("%s: port %d: plaintext is refused: %v, mode %v", c.name, port, refused, s.Mode(web, port))
			}
		}
	}
}
