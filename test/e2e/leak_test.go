// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Most cycles are of sandboxes: a netns with addresses, and what the plugin
// says to ztunnel about it. The rest are of pods, by libcni and all plugins,
// with traffic and connections that are open to the end; of each third of these
// the DEL is lost, and ztunnel has to notice.
func TestAThousandPodsComeAndGoWithoutATrace(t *testing.T) {
	sandboxes, pods := 960, 40
	if testing.Short() {
		sandboxes, pods = 90, 10
	}
	s := tellAlone(t, lab.Options{}, "mesh")
	server := map[*lab.Node]*lab.Pod{s.one: s.pod(s.one, "server-1", nil), s.two: s.pod(s.two, "server-2", nil)}
	for _, p := range server {
		s.serve(p.Place, agent.Echo, 8080)
	}
	for _, n := range s.Nodes { // so that what is made on first use is there
		s.podCycle(n, "first", server, false)
		s.sandboxCycles(n, "first-sandbox", 0, 1)
	}
	before := map[*lab.Node]census{}
	for _, n := range s.Nodes {
		s.eventually("the first pods are gone", func() bool {
			before[n] = s.census(n)
			return before[n]["sandboxes"] == 1 && before[n]["devices of the node"] == 3 // lo, eth0, the server's
		})
	}

	const slots = 4 // per node
	start := time.Now()
	var wg sync.WaitGroup
	for i, n := range s.Nodes {
		for slot := range slots {
			wg.Go(func() { s.sandboxCycles(n, fmt.Sprintf("sandbox-%d-%d", i, slot), slot, sandboxes/slots/len(s.Nodes)) })
		}
	}
	wg.Wait()
	t.Logf("%d sandboxes in %v", sandboxes, time.Since(start))
	start = time.Now()
	for i, n := range s.Nodes {
		wg.Go(func() {
			for cycle := range pods / len(s.Nodes) {
				s.podCycle(n, fmt.Sprintf("pod-%d-%d", i, cycle), server, cycle%3 == 0)
			}
		})
	}
	wg.Wait()
	t.Logf("%d pods in %v", pods, time.Since(start))
	for _, n := range s.Nodes {
		s.must(n.GC(s.ctx)) // names the servers, and so spares them
		s.wantNothingNew(n, before[n])
	}
	for _, n := range s.Nodes {
		s.reached(server[n].Place, "tcp4", server[s.other(n)], 8080)
	}
}

func (s *story) other(n *lab.Node) *lab.Node {
	if n == s.one {
		return s.two
	}
	return s.one
}

// podCycle starts a pod, has it talk over both IP versions to both nodes, and
// ends it with a connection open.
func (s *story) podCycle(n *lab.Node, name string, servers map[*lab.Node]*lab.Pod, loseDEL bool) {
	p, err := n.Pod(s.ctx, lab.PodSpec{Namespace: s.namespace, Name: name})
	if err != nil {
		s.Errorf("pod %s: %v", name, err)
		return
	}
	for _, server := range servers {
		for _, network := range []string{"tcp4", "tcp6"} {
			conn, err := p.Dial(s.ctx, network, server.At(network, 8080))
			if err == nil {
				err = conn.Ping(s.ctx, "from "+name)
			}
			if err != nil {
				s.Errorf("%s to %v over %s: %v", name, server, network, err)
			}
		}
	}
	end := p.Delete
	if loseDEL {
		end = p.Vanish
	}
	if err := end(s.ctx); err != nil {
		s.Errorf("end pod %s: %v", name, err)
	}
}

// sandboxCycles has one pod's sandbox made and removed again and again, as a
// runtime does whose sandboxes die.
func (s *story) sandboxCycles(n *lab.Node, name string, slot, cycles int) {
	uid := name + "-uid"
	err := errors.Join(s.Apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {namespace: %s, name: %s, uid: %s}
spec: {nodeName: %s, containers: [{name: app, image: lab/app}]}
`, s.namespace, name, uid, n.Name)), s.Settle(s.ctx))
	for cycle := 0; cycle < cycles && err == nil; cycle++ {
		err = s.sandboxCycle(n, enroll.Request{
			Network: "culvert-lab", ContainerID: fmt.Sprintf("%s-%d", name, cycle), IfName: "eth0",
			PodNamespace: s.namespace, PodName: name, PodUID: uid,
			IPs: enroll.Addrs{
				netip.AddrFrom4([4]byte{10, 99, 0, byte(slot)}), netip.MustParseAddr(fmt.Sprintf("fd99::%x", slot+1)),
			},
		})
	}
	if err := errors.Join(err, s.Delete("Pod", s.namespace, name)); err != nil {
		s.Errorf("sandboxes of %s: %v", name, err)
	}
}

func (s *story) sandboxCycle(n *lab.Node, req enroll.Request) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	node, err := os.Open(n.Host.Netns)
	if err != nil {
		return err
	}
	defer node.Close()
	if err := ns.Do(func() error { return addDevice(req.IPs, node) }); err != nil {
		return fmt.Errorf("prepare a netns: %w", err)
	}
	if err := ns.Fd(func(fd int) error {
		req.Netns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
		return nil
	}); err != nil {
		return err
	}
	plugin := enroll.Client{Socket: filepath.Join(n.State, "enroll.sock")}
	reply, err := plugin.Add(s.ctx, req)
	if err == nil && reply.Verdict != enroll.Enrolled {
		err = fmt.Errorf("verdict %s: %s", reply.Verdict, reply.Reason)
	}
	if err == nil {
		err = plugin.Check(s.ctx, req)
	}
	return errors.Join(err, plugin.Del(s.ctx, req))
}

// addDevice gives the thread's netns a device with addresses, whose other end
// is the node's.
func addDevice(addrs []netip.Addr, node *os.File) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	eth0 := &netlink.Veth{
		LinkAttrs: attrs, PeerNamespace: netlink.NsFd(node.Fd()),
		PeerName: fmt.Sprintf("leak%d", devices.Add(1)),
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(eth0)); err != nil {
		return err
	}
	for _, addr := range addrs {
		ip := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
		if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: ip}); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(eth0)
}

var devices atomic.Int32
