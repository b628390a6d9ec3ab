// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func TestWhileZtunnelIsAwayOnlyPodsOutsideTheMeshStart(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	outside := in(t, s.Lab)
	old, server := s.pod(s.one, "old", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	staying, leaving := s.pod(s.one, "staying", nil), s.pod(s.one, "leaving", nil)
	s.must(s.one.Ztunnel.Kill())

	_, err := s.one.Pod(s.ctx, lab.PodSpec{Namespace: s.namespace, Name: "labelled"})
	s.blocked(err, "pod "+s.namespace+"/labelled may not start", "namespace "+s.namespace+" is in the mesh", "ztunnel did not answer")
	plain := outside.pod(s.one, "plain", nil)
	s.must(s.Namespace("new", map[string]string{"culvert.dev/mesh": "enabled"}))
	_, err = s.one.Pod(s.ctx, lab.PodSpec{Namespace: "new", Name: "newcomer"})
	s.blocked(err, "namespace new is newer than what ztunnel knew last")
	s.must(s.one.Status(s.ctx))
	if err := staying.Check(s.ctx); lab.CNICode(err) != 11 {
		t.Errorf("CHECK: %v, want code 11", err)
	}
	s.must(old.Delete(s.ctx))
	s.must(leaving.SetLabel("culvert.dev/mesh", "disabled"))
	s.refused(leaving.Place, "tcp4", server, 8080) // nobody is there to let it go

	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(staying.AwaitEnrolled(s.ctx))
	s.must(staying.Check(s.ctx))
	s.must(leaving.AwaitOutside(s.ctx))
	s.reached(leaving.Place, "tcp4", server, 8080)
	if left := s.census(s.one); left["sandbox records"] != 2 || left["entries of pods"] != 1 || left["entries of own_ips"] != 2 {
		t.Errorf("a pod that was deleted meanwhile left a trace: %v", left)
	}
	labelled := s.pod(s.one, "labelled", nil)
	s.reached(labelled.Place, "tcp4", server, 8080)

	// Nobody told ztunnel about the pod that started meanwhile.
	s.must(s.Label(outside.namespace, "culvert.dev/mesh", "enabled"))
	s.must(plain.AwaitEnrolled(s.ctx))
	s.overBoth(func(s *story, network string) {
		s.reached(plain.Place, network, server, 8080)
		s.record(s.two, "direction", "inbound", "src.identity", plain.SPIFFEID("cluster.local"),
			"dst.hbone_addr", server.At(network, 8080).String(), "result", "ok")
	})
}

// blocked asserts that a runtime is asked to try again later, and told why.
func (s *story) blocked(err error, said ...string) {
	s.Helper()
	if lab.CNICode(err) != 11 {
		s.Errorf("ADD: %v, want code 11", err)
		return
	}
	if !containsAll(err.Error(), said) {
		s.Errorf("ADD: %v, want it to say %q", err, said)
	}
}

func TestAFullStateDirectoryBlocksPodsOfTheMeshAndSaysWhy(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	dir := filepath.Join(s.one.State, "sandboxes")
	s.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"))
	err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 64<<10), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	_, err = s.one.Pod(s.ctx, lab.PodSpec{Namespace: s.namespace, Name: "late"})
	s.blocked(err, "pod "+s.namespace+"/late may not start", "no space left on device")
	outside := in(t, s.Lab)
	outside.pod(s.one, "plain", nil)
	s.reached(client.Place, "tcp4", server, 8080)

	s.must(unix.Unmount(dir, unix.MNT_DETACH))
	late := s.pod(s.one, "late", nil)
	s.reached(late.Place, "tcp4", server, 8080)
}

func TestASandboxIsClaimedByItsOwnPodOnly(t *testing.T) {
	s := tell(t, "mesh")
	victim, thief, server := s.pod(s.one, "victim", nil), s.pod(s.one, "thief", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	plugin := enroll.Client{Socket: filepath.Join(s.one.State, "enroll.sock")}
	claim := func(netns string, ips ...netip.Addr) enroll.Request {
		return enroll.Request{
			Network: "culvert-lab", ContainerID: "stolen", IfName: "eth0", Netns: netns, IPs: ips,
			PodNamespace: thief.Namespace, PodName: thief.Name, PodUID: thief.UID,
		}
	}
	nobody := claim(victim.Netns, victim.IP4)
	nobody.PodUID = "nobody"
	for _, tc := range []struct {
		what string
		req  enroll.Request
		said string
	}{
		{"another pod's netns and addresses", claim(victim.Netns, victim.IP4, victim.IP6), "is enrolled as pod " + victim.String()},
		{"another pod's netns, its own addresses", claim(victim.Netns, thief.IP4), "holds none of the pod's addresses"},
		{"the node's netns", claim(s.one.Host.Netns, s.one.IP4), "is the node's own netns"},
		{"no netns", claim("/etc/passwd", thief.IP4), "netns"},
		{"no address", claim(thief.Netns), "no address"},
		{"a UID that nobody has", nobody, "is not known on node"},
	} {
		reply, err := plugin.Add(s.ctx, tc.req)
		if err != nil || reply.Verdict != enroll.Block || !strings.Contains(reply.Reason, tc.said) {
			t.Errorf("%s: %+v, %v; want it blocked, saying %q", tc.what, reply, err, tc.said)
		}
	}
	for _, p := range []*lab.Pod{victim, thief} {
		s.must(p.Check(s.ctx))
		s.reached(p.Place, "tcp4", server, 8080)
		s.record(s.two, "direction", "inbound", "dst.hbone_addr", server.At("tcp4", 8080).String(),
			"src.identity", p.SPIFFEID("cluster.local"), "src.addr", p.IP4.String(), "result", "ok")
	}
}

// Every connection is of a time when the pods were in the mesh or were not.
func TestALabelThatFlapsUnderLoadBreaksNothing(t *testing.T) {
	const flips = 20
	s := tell(t)
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	ln := s.serve(server.Place, agent.Echo, 8080)
	var open []*agent.Conn
	var mu sync.Mutex // guards open
	echo := func() {
		mu.Lock()
		defer mu.Unlock()
		for i, conn := range open {
			if err := conn.Ping(s.ctx, fmt.Sprintf("connection %d", i)); err != nil {
				t.Errorf("connection %d of %d broke: %v", i, len(open), err)
			}
		}
	}
	dial := func() {
		for _, network := range []string{"tcp4", "tcp6"} {
			conn, err := client.Dial(s.ctx, network, server.At(network, 8080))
			s.must(err)
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
		}
	}
	for flip := range flips {
		dial()
		echo()
		value, await := "enabled", (*lab.Pod).AwaitEnrolled
		if flip%2 == 1 {
			value, await = "disabled", (*lab.Pod).AwaitOutside
		}
		var during sync.WaitGroup
		during.Go(echo)
		s.must(s.Label(s.namespace, "culvert.dev/mesh", value))
		dial() // while it changes
		s.must(errors.Join(await(client, s.ctx), await(server, s.ctx)))
		during.Wait()
		echo()
	}
	served, err := ln.Served(s.ctx)
	s.must(err)
	if len(served) != len(open) {
		t.Errorf("%d connections were opened, the server has %d", len(open), len(served))
	}
	for _, one := range served {
		if from := one.Peer.Addr().Unmap(); from != client.IP4 && from != client.IP6 {
			t.Errorf("the server saw %v, want the client's own address", one.Peer)
		}
	}
	for _, conn := range open {
		s.must(conn.Close())
	}
	for _, n := range s.Nodes {
		s.eventually("the connections that were carried are recorded", func() bool {
			records, err := n.Records()
			s.must(err)
			ended := 0
			for _, r := range records {
				if !strings.Contains(r.String(), s.namespace) {
					continue
				}
				if ended++; r.Get("result") != "ok" {
					t.Errorf("%s: %v", n.Name, r)
				}
			}
			return ended >= flips // half of 4 per flip, at least
		})
	}
}

func TestTheSocketsOfZtunnelAreRootsAlone(t *testing.T) {
	s := tell(t, "mesh")
	victim := s.pod(s.one, "victim", nil)
	socket, admin := filepath.Join(s.one.State, "enroll.sock"), filepath.Join(s.one.State, "admin.sock")
	del := fmt.Sprintf(`{"network":"culvert-lab","containerID":%q,"ifName":"eth0"}`, victim.ContainerID)
	request := fmt.Sprintf("POST /v1/del HTTP/1.1\r\nHost: ztunnel\r\nContent-Length: %d\r\n\r\n%s", len(del), del)
	for _, path := range []string{socket, admin} {
		if reply, err := s.asNobody(path, request); !errors.Is(err, syscall.EACCES) {
			t.Errorf("another user at %s: %q, %v; want EACCES", path, reply, err)
		}
	}
	for dir := s.one.State; dir != s.Dir(); dir = filepath.Dir(dir) {
		s.chmod(dir, 0o755)
	}
	for _, path := range []string{socket, admin} {
		if reply, err := s.asNobody(path, request); !errors.Is(err, syscall.EACCES) {
			t.Errorf("another user at %s, with its directory opened: %q, %v; want EACCES", path, reply, err)
		}
	}
	s.chmod(socket, 0o666)
	if reply, err := s.asNobody(socket, request); len(reply) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("another user at %s, opened: %q, %v; want to be hung up on", socket, reply, err)
	}
	s.must(victim.Check(s.ctx))
	if n, err := victim.Run(s.ctx, "cat", "/proc/self/net/unix"); err != nil || strings.Contains(n, "enroll.sock") {
		t.Errorf("the pod's netns knows of the socket: %v, %v", n, err)
	}
}

// chmod changes a mode until the story ends.
func (s *story) chmod(path string, mode os.FileMode) {
	s.Helper()
	was, err := os.Stat(path)
	s.must(err)
	s.must(os.Chmod(path, mode))
	s.Cleanup(func() { s.must(os.Chmod(path, was.Mode().Perm())) })
}

// asNobody sends a request to a unix socket from a thread of another user.
func (s *story) asNobody(path, request string) (reply []byte, err error) {
	s.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends here
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65533, 65533, 65533); errno != 0 {
			err = fmt.Errorf("become nobody: %w", errno)
			return
		}
		reply, err = ask(path, request)
	}()
	<-done
	return reply, err
}

func ask(path, request string) ([]byte, error) {
	conn, err := net.DialTimeout("unix", path, 10*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}
