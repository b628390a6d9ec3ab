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

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// The CA's two replicas replace the root in their Secret, while pods talk: no connection
// fails, old or new, and the command tells each state. Certificates of an hour are renewed
// by certs renew, as whoever does not want to wait half an hour for drain does it.
func TestTheRootIsReplacedOnAClusterAndNoConnectionFails(t *testing.T) {
	m := useMesh(t)
	admin := cluster.Kubeconfig(m.name)
	s := m.openShop("rekeyed", "culvert.dev/mesh=enabled")
	m.awaitEnrolled(s.namespace)
	begin := time.Now().Add(time.Second)
	eventually(t, func() error { return s.allWell(begin) })
	root := func() string {
		return m.mustKubectl("get", "configmap", "culvert-root", "--namespace=culvert-system", `--output=jsonpath={.data.root\.pem}`)
	}
	before := root()

	if out, code := m.culvert(admin, "ca", "rotate-root", "--status"); code != 0 || !strings.Contains(out, "no re-key of the root is under way") {
		t.Fatalf("before: exit code %d\n%s", code, out)
	}
	if out, code := m.culvert(admin, "ca", "rotate-root"); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	if out, code := m.culvert(admin, "ca", "rotate-root"); code == 0 || !strings.Contains(out, "a re-key is under way") {
		t.Errorf("a second one beside it: exit code %d\n%s", code, out)
	}
	seen := m.followRekey(admin)
	if !slices.Contains(seen, "drain") || seen[len(seen)-1] != "stable" {
		t.Errorf("the command told the states %v", seen)
	}
	after := root()
	if strings.Count(after, "BEGIN CERTIFICATE") != 1 || after == before {
		t.Errorf("nodes are given the root\n%s\nafter\n%s", after, before)
	}
	if err := s.allWell(begin); err != nil {
		t.Error(err)
	}
	late := time.Now().Add(time.Second)
	eventually(t, func() error { return s.allWell(late) })
	for _, args := range [][]string{{"ca", "verify"}, {"status"}} {
		if out, code := m.culvert(admin, args...); code != 0 {
			t.Errorf("%v after it: exit code %d\n%s", args, code, out)
		}
	}
}

// followRekey returns the states that the command tells until the re-key has ended, and
// renews certificates in drain.
func (m *installed) followRekey(admin string) (states []string) {
	m.t.Helper()
	within(m.t, 4*time.Minute, func() error {
		out, code := m.culvert(admin, "ca", "rotate-root", "--status", "--output=json")
		var now struct {
			State, Problem string
			Waits          []any
			Last           *struct{ Result string }
		}
		if err := json.Unmarshal([]byte(out), &now); err != nil || code != 0 {
			return fmt.Errorf("%v, exit code %d\n%s", err, code, out)
		}
		if len(states) == 0 || states[len(states)-1] != now.State {
			states = append(states, now.State)
			m.t.Logf("%s: %s", time.Now().Format(time.TimeOnly), now.State)
			if now.State == "drain" {
				if out, code := m.culvert(admin, "certs", "renew", "--all"); code != 0 {
					m.t.Errorf("certs renew: exit code %d\n%s", code, out)
				}
			}
		}
		if now.State != "stable" {
			return fmt.Errorf("it is in %s, and waits for %v %s", now.State, now.Waits, now.Problem)
		}
		if now.Last == nil || now.Last.Result == "" {
			return errors.New("it has ended, and does not say how")
		}
		return nil
	})
	return states
}
