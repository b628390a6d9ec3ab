// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// Without its sockets no pod starts, and without its records the next ztunnel
// knows no pod: what another hand does to the state directory is undone.
func TestTheStateDirectoryIsRestored(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	here, there := s.pod(s.one, "here", nil), s.pod(s.two, "there", nil)
	s.serve(there.Place, agent.Echo, 8080)
	enroll, admin := filepath.Join(s.one.State, "enroll.sock"), filepath.Join(s.one.State, "admin.sock")
	for _, harm := range []struct {
		what string
		do   func() error
	}{
		{"sockets removed", func() error { return errors.Join(os.Remove(enroll), os.Remove(admin)) }},
		{"sockets of another", func() error {
			for _, path := range []string{enroll, admin} {
				ln, err := net.Listen("unix", path+".other")
				if err != nil {
					return err
				}
				s.Cleanup(func() { ln.Close() })
				go func() { // whoever connects is hung up on, and not left to wait
					for {
						conn, err := ln.Accept()
						if err != nil {
							return
						}
						conn.Close()
					}
				}()
				if err := os.Rename(path+".other", path); err != nil {
					return err
				}
			}
			return nil
		}},
		{"records removed", func() error { return os.RemoveAll(filepath.Join(s.one.State, "sandboxes")) }},
		{"the whole directory removed", func() error { return os.RemoveAll(s.one.State) }},
	} {
		before := s.repairs(s.one)
		s.must(harm.do())
		s.eventually(harm.what+": it is restored", func() bool {
			status, _, err := s.one.AdminGet(s.ctx, "/debug/pprof/goroutine?debug=1")
			return s.repairs(s.one) > before && err == nil && status == http.StatusOK
		})
		late := s.pod(s.one, "late", nil)
		s.reached(late.Place, "tcp4", there, 8080)
		s.must(late.Delete(s.ctx))
	}
	s.logged(s.one, `"level":"error"`, "state directory, which is restored", "enroll socket")
	s.must(s.one.Ztunnel.Kill())
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: s.flags}))
	s.eventually("the next ztunnel finds the pod's record", func() bool {
		return here.Ping(s.ctx, "tcp4", there.At("tcp4", 8080), "ping") == nil
	})
}

// A directory that another process has locked is that one's.
func TestAStateDirectoryOfAnotherIsLeftAlone(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	former := s.one.State + ".former"
	s.must(os.Rename(s.one.State, former))
	s.must(os.Mkdir(s.one.State, 0o700))
	other, err := os.Open(s.one.State)
	s.must(err)
	defer other.Close()
	s.must(unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	s.eventually("ztunnel is not ready and says why", func() bool {
		_, body, err := s.one.HTTPGet(s.ctx, "http://127.0.0.1:15021/healthz/ready")
		return err == nil && strings.Contains(body, "in use by another ztunnel") && strings.Contains(body, "(-state-dir)")
	})
	for _, name := range []string{"enroll.sock", "admin.sock", "sandboxes"} {
		if _, err := os.Lstat(filepath.Join(s.one.State, name)); err == nil {
			t.Errorf("it made %s there", name)
		}
	}
	s.must(other.Close())
	s.eventually("ztunnel is ready again", func() bool {
		status, _, err := s.one.HTTPGet(s.ctx, "http://127.0.0.1:15021/healthz/ready")
		return err == nil && status == http.StatusOK
	})
	s.reached(s.pod(s.one, "late", nil).Place, "tcp4", s.echoOn(s.two), 8080)
}

// echoOn is a pod with an echo server at port 8080.
func (s *story) echoOn(n *lab.Node) *lab.Pod {
	s.Helper()
	p := s.pod(n, "echo", nil)
	s.serve(p.Place, agent.Echo, 8080)
	return p
}
