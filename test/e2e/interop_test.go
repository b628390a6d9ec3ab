// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// Istio's ztunnel at one end, ours at the other. It takes its certificates
// from our CA, and its pod from us as from Istio's node agent.
//
//	ISTIO_ZTUNNEL=/path/to/ztunnel go test ./test/e2e -run Istio
func TestIstiosZtunnelAndOursCarryEachOthersPods(t *testing.T) {
	program := os.Getenv("ISTIO_ZTUNNEL")
	if program == "" {
		t.Skip("ISTIO_ZTUNNEL does not name a release build of Istio's ztunnel")
	}
	s := tellAlone(t, lab.Options{}, "mesh")
	s.must(s.two.Ztunnel.Stop(s.ctx))
	ours := s.pod(s.one, "ours", nil)
	theirs := s.pod(s.two, "theirs", func(p *lab.PodSpec) { p.Unmeshed = true })
	s.startIstio(program, ours, theirs)
	s.serve(ours.Place, agent.Echo, 8080)
	s.serve(theirs.Place, agent.Echo, 8080)
	s.overBoth(func(s *story, network string) {
		s.eventually("ours reaches theirs", func() bool {
			return ours.Ping(s.ctx, network, theirs.At(network, 8080), "hello") == nil
		})
		conn, err := ours.Dial(s.ctx, network, theirs.At(network, 8080))
		s.must(err)
		s.exact(conn, 64<<20)
		s.record(s.one, "direction", "outbound", "dst.hbone_addr", theirs.At(network, 8080).String(),
			"result", "ok", "dst.identity", theirs.SPIFFEID("cluster.local"))

		s.exact(s.socks(theirs, ours.At(network, 8080)), 16<<20)
		s.record(s.one, "direction", "inbound", "dst.hbone_addr", ours.At(network, 8080).String(),
			"result", "ok", "src.identity", theirs.SPIFFEID("cluster.local"))
	})
	a, err := ours.Agent()
	s.must(err)
	crowd, err := a.Many(s.ctx, agent.Many{Network: "tcp4", To: theirs.At("tcp4", 8080), Count: 500})
	s.must(err)
	if crowd.OK != 500 {
		t.Errorf("of 500 streams: %+v", crowd)
	}
}

// exact sends bytes to an echo server and wants the same back.
func (s *story) exact(conn *agent.Conn, size int64) {
	s.Helper()
	moved, err := conn.Transfer(s.ctx, agent.Transfer{Send: size, Seed: 7, Receive: -1})
	s.must(err)
	if moved.Received != size || moved.ReceivedHash != moved.SentHash {
		s.Errorf("of %d bytes %d came back, or others", size, moved.Received)
	}
	s.must(conn.Close())
}

// startIstio runs ztunnel on node2, in Istio's in-pod mode but without
// iptables: inbound needs none, outbound goes through its SOCKS port.
func (s *story) startIstio(program string, pods ...*lab.Pod) {
	s.Helper()
	dir := s.TempDir()
	var xds strings.Builder
	xds.WriteString("policies: []\nservices: []\nworkloads:\n")
	for _, p := range pods {
		fmt.Fprintf(&xds, "- {uid: Kubernetes//Pod/%s/%s, name: %[2]s, namespace: %[1]s, serviceAccount: %[3]s, trustDomain: cluster.local, "+
			"workloadIps: [%q, %[5]q], protocol: HBONE, node: %[6]s, services: {}}\n", p.Namespace, p.Name, p.ServiceAccount, p.IP4, p.IP6, p.Node.Name)
	}
	token, err := s.Token(s.two.Name, nil)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(dir, "xds.yaml"), []byte(xds.String()), 0o600))
	s.must(os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600))
	agent, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, "zds.sock"), Net: "unixpacket"})
	s.must(err)
	s.Cleanup(func() { agent.Close() })
	go serveZDS(agent, pods[len(pods)-1])

	ztunnel, err := s.two.Host.Start("istio", "env", "PROXY_MODE=shared", "INPOD_UDS="+filepath.Join(dir, "zds.sock"),
		"XDS_ADDRESS=", "LOCAL_XDS_PATH="+filepath.Join(dir, "xds.yaml"), "NODE_NAME="+s.two.Name,
		"CA_ADDRESS=https://"+s.Identity.Addr.String(), "CA_ROOT_CA="+s.Identity.Root, "AUTH_TOKEN="+filepath.Join(dir, "token"),
		"ALT_CA_HOSTNAME=culvert-identity.culvert-system.svc", "ENABLE_ORIG_SRC=false", "UNSTABLE_ENABLE_SOCKS5=true", program)
	s.must(err)
	s.Cleanup(func() {
		ztunnel.Kill()
		if s.Failed() {
			log, _ := os.ReadFile(ztunnel.Log)
			s.Logf("%s", log)
		}
	})
}

// serveZDS hands one pod over as Istio's node agent does: a message a packet,
// the netns as a descriptor beside it (facts: istio.workload.zds, V1).
func serveZDS(agent *net.UnixListener, p *lab.Pod) {
	conn, err := agent.AcceptUnix()
	if err != nil {
		return
	}
	defer conn.Close()
	answer := make([]byte, 1024)
	conn.Read(answer) // hello
	netns, err := os.Open(p.Netns)
	if err != nil {
		return
	}
	defer netns.Close()
	message := func(number int, body ...[]byte) []byte {
		all := slices.Concat(body...)
		return append([]byte{byte(number<<3 | 2), byte(len(all))}, all...)
	}
	info := message(2, message(1, []byte(p.Name)), message(2, []byte(p.Namespace)), message(3, []byte(p.ServiceAccount)))
	conn.WriteMsgUnix(message(1, message(1, []byte(p.UID)), info), unix.UnixRights(int(netns.Fd())), nil)
	conn.Read(answer)
	conn.Write(message(3)) // snapshot sent
	io.Copy(io.Discard, conn)
}

// socks connects through ztunnel's SOCKS5 port in the pod.
func (s *story) socks(p *lab.Pod, to netip.AddrPort) *agent.Conn {
	s.Helper()
	conn, err := p.Dial(s.ctx, "tcp4", netip.MustParseAddrPort("127.0.0.1:15080"))
	s.must(err)
	s.must(conn.Send(s.ctx, []byte{5, 1, 0}))
	_, err = conn.ReceiveFull(s.ctx, 2)
	s.must(err)
	kind := byte(1)
	if to.Addr().Is6() {
		kind = 4
	}
	request := append([]byte{5, 1, 0, kind}, to.Addr().AsSlice()...)
	s.must(conn.Send(s.ctx, append(request, byte(to.Port()>>8), byte(to.Port()))))
	answer, err := conn.ReceiveFull(s.ctx, 10)
	s.must(err)
	if answer[1] != 0 {
		s.Fatalf("SOCKS answer %x", answer)
	}
	return conn
}
