// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// proved is what culvert verify says.
type proved struct {
	Verdict, Path string
	Steps         []struct{ Step, State, Says string }
}

func (p proved) at(step string) (state, says string) {
	for _, s := range p.Steps {
		if s.Step == step {
			return s.State, s.Says
		}
	}
	return "", ""
}

// verify has both nodes prove, through the API server, what a pod of a shop says to another.
func (m *installed) verify(kubeconfig, from, to string) (p proved, text string, code int) {
	m.t.Helper()
	text, code = m.culvert(kubeconfig, "verify", from, to, "--output=json")
	if start, end := strings.Index(text, "{"), strings.LastIndex(text, "}"); start >= 0 && end > start {
		if err := json.Unmarshal([]byte(text[start:end+1]), &p); err != nil {
			m.t.Fatalf("verify: %v\n%s", err, text)
		}
	}
	return p, text, code
}

// provesWhatIsOnTheWire sends a mark from node1 to node2 in the mesh, and once more to the
// same pod when its label has taken it out: the second is in plaintext, and that is seen.
func (m *installed) provesWhatIsOnTheWire(t *testing.T, kubeconfig string) {
	t.Helper()
	const client, far = older + "/client", "pod/" + older + "/far:8081" // a Service has that name, too
	eventually(t, func() error {
		p, text, code := m.verify(kubeconfig, client, far)
		if code != 0 || p.Verdict != "verified" || p.Path != "tunnel" || len(p.Steps) != 6 {
			return fmt.Errorf("verify: exit code %d\n%s", code, text)
		}
		return nil
	})

	label := func(word string) { m.mustKubectl("label", "pod", "far", "--namespace="+older, "culvert.dev/mesh"+word) }
	label("=disabled")
	t.Cleanup(func() { label("-") })
	eventually(t, func() error {
		p, text, code := m.verify(kubeconfig, client, far)
		if code != 1 || p.Verdict != "not verified" {
			return fmt.Errorf("verify of plaintext: exit code %d\n%s", code, text)
		}
		for _, wire := range []string{"source-wire", "destination-wire"} {
			if state, says := p.at(wire); state != "fault" || !strings.Contains(says, "in plaintext on ") {
				return fmt.Errorf("verify of plaintext: %s is %s: %s", wire, state, says)
			}
		}
		return nil
	})
}
