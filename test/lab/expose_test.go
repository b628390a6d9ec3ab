// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"net/http"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
)

func TestOneProcessAsksAllNodes(t *testing.T) {
	l := newLab(t, lab.Options{})
	for _, n := range l.Nodes {
		address, err := n.ExposeAdmin(t.Context())
		must(t, err)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/logging", nil)
		must(t, err)
		r.Host = "127.0.0.1:15000" // ztunnel answers for no other
		answer, err := http.DefaultTransport.(*http.Transport).Clone().RoundTrip(r)
		must(t, err)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", n.Name, answer.Status)
		}
	}
}
