// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// The goal for a pod of a namespace that gets the label, or loses it.
const labelGoal = 5 * time.Second

// Running pods come into the mesh by a label, and out of it: none is restarted, what is
// open stays open, and the payload of new connections is not on the wire any more.
func TestALabelBringsRunningPodsIntoTheMeshAndOutOfIt(t *testing.T) {
	m := useMesh(t)
	s := m.shop(older)
	t.Cleanup(func() {
		s.kubectlHere("label", "namespace", older, "culvert.dev/mesh-")
		s.kubectlHere("scale", "deployment/web", "--replicas=2")
	})
	s.kubectlHere("scale", "deployment/web", "--replicas=6")
	s.kubectlHere("rollout", "status", "deployment/web", "--timeout=60s")
	wire := s.sniff(s.word)
	eventually(t, wire.plain)
	before := s.starts()
	begin := time.Now()
	var in, out []time.Duration
	for range 3 {
		s.kubectlHere("label", "namespace", s.namespace, "culvert.dev/mesh=enabled")
		in = append(in, m.carried(s.namespace, true)...)
		wire.look()
		eventually(t, wire.sealed)
		wire.staysSealed(3 * time.Second)

		s.kubectlHere("label", "namespace", s.namespace, "culvert.dev/mesh-")
		out = append(out, m.carried(s.namespace, false)...)
		eventually(t, wire.plain)
	}
	judge(t, "into the mesh", in)
	judge(t, "out of the mesh", out)
	if err := s.allWell(begin); err != nil {
		t.Error(err)
	}
	if after := s.starts(); after != before {
		t.Errorf("the containers that ran were\n%s, and are\n%s", before, after)
	}
}

// starts are the containers of the shop's pods, by name, with how often each was started
// again.
func (s *shop) starts() string {
	s.t.Helper()
	return s.kubectlHere("get", "pods", "--sort-by=.metadata.name", "--output",
		`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
}

// judge prints the times, and fails the test if p95 is beyond the goal.
func judge(t *testing.T, what string, times []time.Duration) {
	t.Helper()
	slices.Sort(times)
	p95 := times[(len(times)*95+99)/100-1]
	t.Logf("%s: %d pods, median %.2f s, p95 %.2f s, last %.2f s", what, len(times),
		times[len(times)/2].Seconds(), p95.Seconds(), times[len(times)-1].Seconds())
	if p95 > labelGoal {
		t.Errorf("%s: p95 is %v, want %v at most", what, p95, labelGoal)
	}
}

// carried waits until all pods of a namespace are in the mesh, or out of it, as the kernel
// of their node has it, and returns how long that took each of them.
func (m *installed) carried(namespace string, want bool) []time.Duration {
	m.t.Helper()
	begin := time.Now()
	pods := strings.Fields(m.mustKubectl("get", "pods", "--namespace="+namespace, "--output=jsonpath={.items[*].metadata.uid}"))
	took := make(map[string]time.Duration)
	eventually(m.t, func() error {
		in, err := m.enrolledNow()
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if took[pod] == 0 && in[pod] == want {
				took[pod] = time.Since(begin)
			}
		}
		if len(took) < len(pods) {
			return fmt.Errorf("of %d pods of %s, %d are where the label wants them", len(pods), namespace, len(took))
		}
		return nil
	})
	var times []time.Duration
	for _, one := range took {
		times = append(times, one)
	}
	return times
}

// enrolledNow are the UIDs of the pods that are in the mesh, by what both nodes say.
func (m *installed) enrolledNow() (map[string]bool, error) {
	in := make(map[string]bool)
	for _, node := range bothNodes {
		text, err := m.tryEnter(node, "curl", "--silent", "--fail", "http://127.0.0.1:15000/config_dump")
		if err != nil {
			return nil, err
		}
		var dump struct {
			WorkloadState map[string]struct {
				State       string
				Certificate struct{ State string }
			}
		}
		if err := json.Unmarshal([]byte(text), &dump); err != nil {
			return nil, fmt.Errorf("the dump of %s: %w", node, err)
		}
		for uid, pod := range dump.WorkloadState {
			in[uid] = pod.State == "enrolled" && pod.Certificate.State == "valid"
		}
	}
	return in, nil
}

// plain is an error unless the word was seen in clear, in IPv4 and in IPv6, since the
// sniffer was last asked.
func (s *sniffer) plain() error {
	if seen := s.look(); seen.clear[4] == 0 || seen.clear[6] == 0 {
		return fmt.Errorf("saw the word %v", seen)
	}
	return nil
}

// sealed is an error if the word was seen in clear since the sniffer was last asked, or
// no tunnel.
func (s *sniffer) sealed() error {
	switch seen := s.look(); {
	case len(seen.clear) > 0:
		return fmt.Errorf("saw the word %v", seen)
	case seen.tunnel[4] == 0 || seen.tunnel[6] == 0:
		return fmt.Errorf("saw no tunnel in one IP version: %v", seen)
	case seen.lost > 0:
		return errors.New("packets were lost")
	}
	return nil
}

// staysSealed watches for a while.
func (s *sniffer) staysSealed(d time.Duration) {
	s.t.Helper()
	s.look()
	time.Sleep(d)
	if err := s.sealed(); err != nil {
		s.t.Error(err)
	}
}
