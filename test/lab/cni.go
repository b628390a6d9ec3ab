// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	networkName = "culvert-lab"
	podDevice   = "eth0"
)

// plugins runs CNI plugins as processes of the node, where a container runtime
// runs them.
type pluginExec struct {
	place *Place
	version.PluginDecoder
}

func (e *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	if err := e.place.lab.start(e.place, cmd); err != nil {
		return nil, err
	}
	err := cmd.Wait()
	if err == nil {
		return stdout.Bytes(), nil
	}
	said := &types.Error{}
	if json.Unmarshal(stdout.Bytes(), said) == nil && said.Msg != "" {
		return nil, said
	}
	return nil, fmt.Errorf("%s: %w: %s%s", filepath.Base(path), err, stdout.Bytes(), stderr.Bytes())
}

func (e *pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// network is the node's CNI network as kubelet's runtime has it.
func (n *Node) network(meshed bool) (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	ipam := map[string]any{
		"type": "host-local", "dataDir": filepath.Join(n.dir, "ipam"),
		"ranges": [][]map[string]string{{{"subnet": n.PodCIDR4.String()}}, {{"subnet": n.PodCIDR6.String()}}},
		"routes": []map[string]string{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
	}
	main := map[string]any{"type": n.lab.opts.Network, "mtu": mtu, "ipam": ipam}
	if n.lab.opts.Network == "bridge" {
		main["bridge"], main["isGateway"], main["hairpinMode"] = "cni0", true, true
	}
	chain := []any{main}
	if meshed {
		chain = append(chain, n.plugin())
	}
	return n.config(map[string]any{"cniVersion": "1.1.0", "name": networkName, "plugins": chain})
}

// plugin is culvert-cni's entry in a network's list.
func (n *Node) plugin() map[string]any {
	return map[string]any{
		"type":     "culvert-cni",
		"socket":   filepath.Join(n.State, "enroll.sock"),
		"snapshot": filepath.Join(n.State, "snapshot.json"),
	}
}

// loopback is the network that brings up lo, which runtimes add on their own.
func (n *Node) loopback() (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	chain := []any{map[string]any{"type": "loopback"}}
	return n.config(map[string]any{"cniVersion": "1.0.0", "name": "cni-loopback", "plugins": chain})
}

func (n *Node) config(conflist map[string]any) (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	text, err := json.Marshal(conflist)
	if err != nil {
		return nil, nil, err
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return nil, nil, err
	}
	path := []string{filepath.Join(n.lab.bin, "cni"), n.lab.bin}
	return libcni.NewCNIConfigWithCacheDir(path, filepath.Join(n.dir, "cni"), &pluginExec{place: n.Host}), list, nil
}

func (p *Pod) runtimeConf(device string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.ContainerID, NetNS: p.Netns, IfName: device,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Namespace},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
			{"K8S_POD_UID", p.UID},
		},
	}
}

// add does the pod's CNI ADD, loopback first.
func (p *Pod) add(ctx context.Context) error {
	cni, lo, err := p.Node.loopback()
	if err != nil {
		return err
	}
	if _, err := cni.AddNetworkList(ctx, lo, p.runtimeConf("lo")); err != nil {
		return fmt.Errorf("add loopback to pod %v: %w", p, err)
	}
	cni, list, err := p.Node.network(p.meshed)
	if err != nil {
		return err
	}
	result, err := cni.AddNetworkList(ctx, list, p.runtimeConf(podDevice))
	if err != nil {
		return fmt.Errorf("add pod %v to the network: %w", p, err)
	}
	return p.addresses(result)
}

func (p *Pod) addresses(result types.Result) error {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return err
	}
	for _, ip := range r.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		if addr = addr.Unmap(); addr.Is4() {
			p.IP4 = addr
		} else {
			p.IP6 = addr
		}
	}
	if !p.IP4.IsValid() || !p.IP6.IsValid() {
		return fmt.Errorf("pod %v got addresses %v: want one of each family", p, r.IPs)
	}
	return nil
}

func (p *Pod) del(ctx context.Context) error {
	cni, list, err := p.Node.network(p.meshed)
	if err != nil {
		return err
	}
	if err := cni.DelNetworkList(ctx, list, p.runtimeConf(podDevice)); err != nil {
		return fmt.Errorf("delete pod %v from the network: %w", p, err)
	}
	return nil
}

// Check does the pod's CNI CHECK.
func (p *Pod) Check(ctx context.Context) error {
	cni, list, err := p.Node.network(p.meshed)
	if err != nil {
		return err
	}
	return cni.CheckNetworkList(ctx, list, p.runtimeConf(podDevice))
}

// Status does the node's CNI STATUS.
func (n *Node) Status(ctx context.Context) error {
	cni, list, err := n.network(!n.lab.opts.Unmeshed)
	if err != nil {
		return err
	}
	return cni.GetStatusNetworkList(ctx, list)
}

// GC does the node's CNI GC: what the runtime no longer has is to be dropped.
func (n *Node) GC(ctx context.Context) error {
	cni, list, err := n.network(!n.lab.opts.Unmeshed)
	if err != nil {
		return err
	}
	args := &libcni.GCArgs{}
	for _, p := range n.Pods() {
		args.ValidAttachments = append(args.ValidAttachments,
			types.GCAttachment{ContainerID: p.ContainerID, IfName: podDevice})
	}
	return cni.GCNetworkList(ctx, list, args)
}

// CNICode is the code of a plugin's error, 0 if err is none.
func CNICode(err error) uint {
	var said *types.Error
	if errors.As(err, &said) {
		return said.Code
	}
	return 0
}

func (p *Pod) String() string { return strings.Join([]string{p.Namespace, p.Name}, "/") }
