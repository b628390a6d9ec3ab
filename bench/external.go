// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/test/lab"
)

// certificateLife is of what the load itself shows.
const certificateLife = time.Hour

// redirection is what Istio's agent sets up in a pod by iptables, for what is
// measured: connections to the servers' ports go to ztunnel's outbound listener,
// but not its own, which bear its mark.
const redirection = `table ip bench {
	chain output {
		type nat hook output priority -100;
		meta mark != 0x539 tcp dport { %d, %d, %d } redirect to :15001
	}
}
`

// buildExternal makes the columns of a proxy that is configured as Istio's
// ztunnel: certificates from our CA, pods from us as from Istio's agent.
func (w *world) buildExternal(ctx context.Context, e external, nodes []*lab.Node) error {
	if _, err := exec.LookPath("nft"); err != nil {
		w.note("no column %s: the program nft (Debian: nftables), which redirects as Istio's agent does, is not installed", e.name)
		return nil
	}
	if err := retire(ctx, nodes); err != nil {
		return err
	}
	t, err := w.trio(ctx, e.name, nodes, true)
	if err != nil {
		return err
	}
	all := t.pods()
	if w.ours != nil {
		all = append(all, w.ours.pods()...)
	}
	var pids []int
	for i, n := range nodes {
		process, err := w.startExternal(n, e, all, slices.DeleteFunc(t.pods(), func(p *lab.Pod) bool { return p.Node != n }))
		if err != nil {
			return err
		}
		pids = append(pids, process.PID())
		last := []*place{t.local, t.server}[i]
		if err := awaitListener(ctx, process, last, tunnelPort); err != nil {
			return err
		}
	}
	rules := fmt.Sprintf(redirection, load.Port, fortioPort, iperfPort)
	if _, err := t.client.pod.Run(ctx, "nft", rules); err != nil {
		return fmt.Errorf("redirect as Istio does: %w", err)
	}
	tunnel, err := w.mint(e.name)
	if err != nil {
		return err
	}
	about := []string{"redirected by nftables, ENABLE_ORIG_SRC=false"}
	w.peers = append(w.peers, &peer{
		name: e.name, near: t.client, far: t.server, client: t.client.load, server: t.server.load, to: t.server.pod.At("tcp4", load.Port),
		proxies: pids, hops: 3, crypto: true, about: about,
		gate: t.server.pod.At("tcp4", tunnelPort), tunnel: tunnel, gateway: pids[1], sever: t.sever,
	}, &peer{
		name: e.name + sameNode, client: t.client.load, server: t.local.load, to: t.local.pod.At("tcp4", load.Port),
		proxies: pids[:1], hops: 3, crypto: true, about: about,
	})
	if w.ours != nil {
		w.mix(e.name, mesh{t, pids[0], pids[1]})
	}
	return nil
}

// mix makes the columns with ours at one end and another's proxy at the other.
func (w *world) mix(name string, other mesh) {
	for _, m := range []struct {
		name     string
		from, to mesh
	}{{ours + into + name, *w.ours, other}, {name + into + ours, other, *w.ours}} {
		w.peers = append(w.peers, &peer{
			name: m.name, client: m.from.client.load, server: m.to.server.load, to: m.to.server.pod.At("tcp4", load.Port),
			proxies: []int{m.from.near, m.to.far}, hops: 3, crypto: true, mixed: true,
		})
	}
}

// startExternal starts the proxy on a node and hands it the node's pods.
func (w *world) startExternal(n *lab.Node, e external, all, local []*lab.Pod) (*lab.Process, error) {
	dir := filepath.Join(w.keys.dir, e.name+"-"+n.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	token, err := w.lab.Token(n.Name, nil)
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(file("xds.yaml"), []byte(describe(all)), 0o600), os.WriteFile(file("token"), []byte(token), 0o600)); err != nil {
		return nil, err
	}
	agent, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: file("zds.sock"), Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	go handOver(agent, local)
	return n.Host.Start(e.name, "env", "PROXY_MODE=shared", "INPOD_UDS="+file("zds.sock"), "XDS_ADDRESS=", "LOCAL_XDS_PATH="+file("xds.yaml"),
		"NODE_NAME="+n.Name, "CA_ADDRESS=https://"+w.lab.Identity.Addr.String(), "CA_ROOT_CA="+w.lab.Identity.Root, "AUTH_TOKEN="+file("token"),
		"ALT_CA_HOSTNAME=culvert-identity.culvert-system.svc", "ENABLE_ORIG_SRC=false", "RUST_LOG=warn", "sh", "-c", "exec "+e.command)
}

// describe is the pods as Istio's local configuration.
func describe(pods []*lab.Pod) string {
	var text strings.Builder
	text.WriteString("policies: []\nservices: []\nworkloads:\n")
	for _, p := range pods {
		fmt.Fprintf(&text, "- {uid: Kubernetes//Pod/%s/%s, name: %[2]s, namespace: %[1]s, serviceAccount: %[3]s, trustDomain: cluster.local, "+
			"workloadIps: [%q], protocol: HBONE, node: %[5]s, services: {}}\n", p.Namespace, p.Name, p.ServiceAccount, p.IP4, p.Node.Name)
	}
	return text.String()
}

// handOver tells of pods as Istio's node agent does (istio.workload.zds, V1): a
// message a packet, answered by one, the netns as a descriptor beside it.
func handOver(agent *net.UnixListener, pods []*lab.Pod) {
	conn, err := agent.AcceptUnix()
	if err != nil {
		return
	}
	defer conn.Close()
	answer := make([]byte, 1024)
	_, _ = conn.Read(answer) // hello
	for _, p := range pods {
		netns, err := os.Open(p.Netns)
		if err != nil {
			return
		}
		info := field(2, field(1, []byte(p.Name)), field(2, []byte(p.Namespace)), field(3, []byte(p.ServiceAccount)))
		_, _, err = conn.WriteMsgUnix(field(1, field(1, []byte(p.UID)), info), unix.UnixRights(int(netns.Fd())), nil)
		netns.Close()
		if err != nil {
			return
		}
		_, _ = conn.Read(answer)
	}
	_, _ = conn.Write(field(3)) // snapshot sent
	_, _ = io.Copy(io.Discard, conn)
}

// field is a field of a protobuf message that holds bytes: fewer than 128.
func field(number int, body ...[]byte) []byte {
	all := slices.Concat(body...)
	return append([]byte{byte(number<<3 | 2), byte(len(all))}, all...)
}
