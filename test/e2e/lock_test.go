// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// What a second ztunnel would change is excluded destinations, programs, links
// and sockets: it must end before all of that.
func TestSecondZtunnelEndsAndTheFirstIsUnharmed(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	here, there := s.pod(s.one, "here", nil), s.pod(s.two, "there", nil)
	s.serve(there.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	excluded := []string{"-exclude-cidrs", there.IP4.String() + "/32," + there.IP6.String() + "/128"}
	other := t.TempDir()
	for _, second := range []struct {
		name string
		args []string
		dir  string // that is locked
	}{
		{"the same flags", nil, s.one.State},
		{"another bpffs", []string{"-bpffs", filepath.Join(filepath.Dir(s.one.BPFFS), "other")}, s.one.State},
		{"another state directory", []string{"-state-dir", filepath.Join(other, "state")}, s.one.BPFFS},
	} {
		before := s.repairs(s.one)
		p, err := s.one.StartSecond(s.ctx, append(excluded, second.args...)...)
		s.must(err)
		<-p.Done()
		said, err := os.ReadFile(p.Log)
		s.must(err)
		holder := fmt.Sprintf("%s is in use by another ztunnel, process %d (ztunnel)", second.dir, s.one.Ztunnel.PID())
		if !strings.Contains(string(said), holder) {
			t.Errorf("%s: it says %q, want %q", second.name, said, holder)
		}
		// Past the first's steering, STRICT would refuse it.
		s.overBoth(func(s *story, network string) {
			s.reached(here.Place, network, there, 8080)
		})
		// The plugin's requests still reach the first.
		late := s.pod(s.one, "late", nil)
		s.reached(late.Place, "tcp4", there, 8080)
		s.must(late.Delete(s.ctx))
		if after := s.repairs(s.one); after != before {
			t.Errorf("%s: %d repairs", second.name, after-before)
		}
	}
	// When the first is gone, even by kill -9, the next may start.
	s.must(s.one.Ztunnel.Kill())
	// One of a version that took no lock would be known by its socket.
	older, err := net.Listen("unix", filepath.Join(s.one.State, "older.sock"))
	s.must(err)
	s.must(os.Rename(filepath.Join(s.one.State, "older.sock"), filepath.Join(s.one.State, "enroll.sock")))
	p, err := s.one.StartSecond(s.ctx)
	s.must(err)
	<-p.Done()
	said, err := os.ReadFile(p.Log)
	s.must(err)
	if !strings.Contains(string(said), "a ztunnel of an older version still answers on "+filepath.Join(s.one.State, "enroll.sock")) {
		t.Errorf("beside an older ztunnel: it says %q", said)
	}
	s.must(older.Close())
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(here.AwaitEnrolled(s.ctx))
	s.reached(here.Place, "tcp4", there, 8080)
}
