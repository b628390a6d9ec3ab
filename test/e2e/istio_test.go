// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
)

// istio is Istio's ztunnel in place of ours on node2. It takes its certificates
// from our CA, and its pod from us as from Istio's node agent. The server's app
// does not see the client's address: that takes rules in the pod, which it
// leaves to Istio's agent.
type istio struct {
	*story
	pod     *lab.Pod
	program string
	dir     string
	account atomic.Value // string: the ServiceAccount for whose it takes its pod
	process *lab.Process
}

// redirection is what Istio's agent has for connections that an app opens, and
// ztunnel, by its mark, does not.
const redirection = `table inet istio {
	chain output {
		type nat hook output priority -100;
		meta mark != 0x539 tcp dport 8080-19999 redirect to :15001
	}
}
`

// tellIstio begins a story with our ztunnel and a pod on node1, Istio's and a
// pod on node2.
func tellIstio(s *story, program string) (ours, theirs *lab.Pod, z *istio) {
	s.Helper()
	s.must(s.two.Ztunnel.Stop(s.ctx))
	ours = s.pod(s.one, "ours", nil)
	theirs = s.pod(s.two, "theirs", func(p *lab.PodSpec) { p.Unmeshed = true })
	_, err := theirs.Run(s.ctx, "nft", redirection)
	s.must(err)
	z = &istio{story: s, pod: theirs, program: program, dir: s.TempDir()}
	z.account.Store(theirs.ServiceAccount)
	z.describe(ours)
	agent, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(z.dir, "zds.sock"), Net: "unixpacket"})
	s.must(err)
	s.Cleanup(func() { agent.Close() })
	go z.serveZDS(agent)
	s.Cleanup(func() {
		z.process.Kill()
		if s.Failed() {
			log, _ := os.ReadFile(z.process.Log)
			s.Logf("%s", log)
		}
	})
	z.start()
	return ours, theirs, z
}

// describe writes its pod and ours as Istio's local configuration, and the node's token.
func (z *istio) describe(ours *lab.Pod) {
	z.Helper()
	var xds strings.Builder
	xds.WriteString("policies: []\nservices: []\nworkloads:\n")
	for p, account := range map[*lab.Pod]any{ours: ours.ServiceAccount, z.pod: z.account.Load()} {
		fmt.Fprintf(&xds, "- {uid: Kubernetes//Pod/%s/%s, name: %[2]s, namespace: %[1]s, serviceAccount: %[3]s, trustDomain: cluster.local, "+
			"workloadIps: [%q, %[5]q], protocol: HBONE, node: %[6]s, services: {}}\n", p.Namespace, p.Name, account, p.IP4, p.IP6, p.Node.Name)
	}
	token, err := z.Token(z.two.Name, nil)
	z.must(err)
	z.must(os.WriteFile(filepath.Join(z.dir, "xds.yaml"), []byte(xds.String()), 0o600))
	z.must(os.WriteFile(filepath.Join(z.dir, "token"), []byte(token), 0o600))
}

func (z *istio) start() {
	z.Helper()
	var err error
	z.process, err = z.two.Host.Start("istio", "env", "PROXY_MODE=shared", "INPOD_UDS="+filepath.Join(z.dir, "zds.sock"),
		"XDS_ADDRESS=", "LOCAL_XDS_PATH="+filepath.Join(z.dir, "xds.yaml"), "NODE_NAME="+z.two.Name,
		"CA_ADDRESS=https://"+z.Identity.Addr.String(), "CA_ROOT_CA="+z.Identity.Root, "AUTH_TOKEN="+filepath.Join(z.dir, "token"),
		"ALT_CA_HOSTNAME=culvert-identity.culvert-system.svc", "ENABLE_ORIG_SRC=false", z.program)
	z.must(err)
}

// leave asks it to end: it closes its listeners and, for five seconds, lets
// open connections be.
func (z *istio) leave() { z.must(z.process.Signal(syscall.SIGTERM)) }

// again starts it anew after leave.
func (z *istio) again() {
	<-z.process.Done()
	z.start()
}

// takeFor starts it anew, and has it take its pod for one of another ServiceAccount. It asks
// our CA for the leaf of that one, and shows it in the pod's tunnels.
func (z *istio) takeFor(ours *lab.Pod, account string) {
	z.Helper()
	z.leave()
	z.account.Store(account)
	z.describe(ours)
	z.again()
}

// serveZDS hands one pod over as Istio's node agent does: a message a packet,
// the netns as a descriptor beside it (facts: istio.workload.zds, V1).
func (z *istio) serveZDS(agent *net.UnixListener) {
	for {
		conn, err := agent.AcceptUnix()
		if err != nil {
			return
		}
		go z.handOver(conn)
	}
}

func (z *istio) handOver(conn *net.UnixConn) {
	defer conn.Close()
	p, account := z.pod, z.account.Load().(string)
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
	info := message(2, message(1, []byte(p.Name)), message(2, []byte(p.Namespace)), message(3, []byte(account)))
	conn.WriteMsgUnix(message(1, message(1, []byte(p.UID)), info), unix.UnixRights(int(netns.Fd())), nil)
	conn.Read(answer)
	conn.Write(message(3)) // snapshot sent
	io.Copy(io.Discard, conn)
}
