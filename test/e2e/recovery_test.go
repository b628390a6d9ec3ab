// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func TestWhatAnotherHandRemovesIsBackWithinFiveSeconds(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	here, there := s.pod(s.one, "here", nil), s.pod(s.two, "there", nil)
	s.serve(here.Place, agent.Echo, 8080)
	s.serve(there.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	connect4 := filepath.Join("links", "connect4")
	pod := filepath.Join("netns", strconv.FormatUint(here.Cookie(), 10))
	for _, harm := range []struct {
		what string
		do   func(pin string) error
		pins []string
	}{
		{"pins removed", os.Remove, []string{connect4, pod, "pods"}},
		{"links detached", detach, []string{connect4, pod, filepath.Join("links", "sockops")}},
	} {
		took := env.Best(5*time.Second, func() time.Duration {
			before := s.repairs(s.one)
			for _, pin := range harm.pins {
				s.must(harm.do(filepath.Join(s.one.BPFFS, "v2", pin)))
			}
			start := time.Now()
			// Until then the pod's connections may leave in plaintext: the peer
			// refuses them.
			s.eventually("steering is restored", func() bool {
				if here.Ping(s.ctx, "tcp4", there.At("tcp4", 8080), secret) != nil {
					return false
				}
				return s.repairs(s.one)-before >= len(harm.pins)
			})
			return time.Since(start)
		})
		t.Logf("%s: restored after %v", harm.what, took)
		if took > 5*time.Second {
			t.Errorf("%s: restored after %v", harm.what, took)
		}
		s.overBoth(func(s *story, network string) {
			s.reached(here.Place, network, there, 8080)
			s.reached(there.Place, network, here, 8080)
			s.refused(s.Outside.Place, network, here, 8080)
		})
	}
	for _, what := range []string{"connect4 was detached", "sockops was detached", "sk_lookup of netns " + strconv.FormatUint(here.Cookie(), 10)} {
		s.logged(s.one, `"level":"error"`, "removed by another hand", what)
	}
	records, err := s.two.Records()
	s.must(err)
	for _, r := range records {
		if r.Get("path") == "passthrough" && r.Get("result") != "denied" {
			t.Errorf("plaintext came through: %v", r)
		}
	}
}

// Pins are what keeps pods refused when ztunnel ends, so their loss must not
// wait until then.
func TestUnmountedBPFFSIsMountedAgainOrZtunnelIsNotReady(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	here, there := s.pod(s.one, "here", nil), s.pod(s.two, "there", nil)
	s.serve(there.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	point := filepath.Dir(s.one.BPFFS)
	ready := func() (int, string) {
		status, body, err := s.one.HTTPGet(s.ctx, "http://127.0.0.1:15021/healthz/ready")
		s.must(err)
		return status, body
	}

	s.must(errors.Join(unix.Unmount(point, unix.MNT_DETACH), os.Remove(point))) // it cannot be mounted again
	s.eventually("ztunnel is not ready", func() bool {
		status, body := ready()
		return status >= 500 && strings.Contains(body, "steering: ") && strings.Contains(body, "bpffs on "+point+" was unmounted")
	})
	s.reached(here.Place, "tcp4", there, 8080)
	s.must(os.Mkdir(point, 0o700))
	s.eventually("ztunnel is ready again", func() bool {
		status, _ := ready()
		return status == http.StatusOK
	})
	s.logged(s.one, `"level":"error"`, "bpffs on "+point+" was unmounted", "is restored")

	s.must(s.one.Ztunnel.Kill())
	s.overBoth(func(s *story, network string) {
		s.refusedAtOnce(here.Place, there.At(network, 8080))
	})
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(here.AwaitEnrolled(s.ctx))
	s.reached(here.Place, "tcp4", there, 8080)
}

func detach(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// repairs is the sum of culvert_repairs_total.
func (s *story) repairs(n *lab.Node) (sum int) {
	s.Helper()
	_, body, err := n.HTTPGet(s.ctx, "http://127.0.0.1:15020/metrics")
	s.must(err)
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "culvert_repairs_total{") {
			count, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndex(line, " "):]))
			s.must(err)
			sum += count
		}
	}
	return sum
}

// logged awaits a line of the node's ztunnel that has all these parts.
func (s *story) logged(n *lab.Node, parts ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("a log line with %q", parts), func() bool {
		f, err := os.Open(n.Ztunnel.Log)
		s.must(err)
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if containsAll(lines.Text(), parts) {
				return true
			}
		}
		return false
	})
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

func TestUnreadableObjectsLeaveTheLastGoodStateInForce(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	file := filepath.Join(s.Dir(), s.two.Name, "yaml", "broken.yaml")
	for _, broken := range []struct {
		text string
		said []string
	}{
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: fine}\n---\nkind: [\n", []string{"document 2"}},
		{peerAuthentication(s.namespace, "STRIKT"), []string{"document 1", "spec.mtls.mode", "STRIKT"}},
		{strings.ReplaceAll(peerAuthentication(s.namespace, "DISABLE"), "mtls", "mtsl"), []string{"document 1", "spec.mtsl"}},
		// A second object of one name, which opens what the first one closed.
		{peerAuthentication(s.namespace, "PERMISSIVE"), []string{"PeerAuthentication " + s.namespace + "/default", "is also in"}},
	} {
		s.must(os.WriteFile(file, []byte(broken.text), 0o644))
		s.logged(s.two, append(broken.said, `"level":"error"`, "broken.yaml")...)
		s.overBoth(func(s *story, network string) {
			s.reached(client.Place, network, server, 8080)
			s.refused(s.Outside.Place, network, server, 8080)
		})
		dump, err := s.two.Dump(s.ctx)
		s.must(err)
		if !strings.Contains(dump.Source.LastError, "broken.yaml") {
			t.Errorf("the dump says %q", dump.Source.LastError)
		}
	}
	s.must(os.Remove(file))
	s.must(s.Settle(s.ctx))

	dir := filepath.Dir(file)
	s.must(os.Rename(dir, dir+".away"))
	s.logged(s.two, `"level":"error"`, "read "+dir)
	s.reached(client.Place, "tcp4", server, 8080)
	s.must(os.Rename(dir+".away", dir))
	s.must(s.Settle(s.ctx))
	late := s.pod(s.two, "late", nil)
	s.reached(late.Place, "tcp4", server, 8080)
}
