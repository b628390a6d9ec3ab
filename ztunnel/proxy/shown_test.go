// SPDX-License-Identifier: Apache-2.0

package proxy

import "testing"

// A pod with any number of connections makes a dump of some length.
func TestTheDumpHasTheOldestConnectionsOfAPod(t *testing.T) {
	p := crowded(t)
	in, out, omitted := p.Connections()
	if len(in) != most || len(out) != 0 || omitted != 10000-most {
		t.Fatalf("%d inbound, %d outbound, %d omitted", len(in), len(out), omitted)
	}
	for i, c := range in {
		if int(c.Src.Port()) != i+1 { // they were opened in this order
			t.Fatalf("number %d is from %v", i, c.Src)
		}
	}
}
