// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

// secondary4 are the addresses of second networks. They are in no mesh CIDR.
const secondary4 = "172.31.7.0/24"

// secondary is a second CNI network of the node, as Multus delegates to it.
func (n *Node) secondary(name string) (*libcni.CNIConfig, *libcni.NetworkConfigList, error) {
	return n.config(map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{
		map[string]any{"type": "ptp", "mtu": mtu, "ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(n.dir, "ipam"),
			"ranges": [][]map[string]string{{{"subnet": secondary4}}},
		}},
		n.plugin(),
	}})
}

// Attach does the CNI ADD of a second network: for the same sandbox, by another
// device.
func (p *Pod) Attach(ctx context.Context, network, device string) error {
	cni, list, err := p.Node.secondary(network)
	if err != nil {
		return err
	}
	if _, err := cni.AddNetworkList(ctx, list, p.runtimeConf(device)); err != nil {
		return fmt.Errorf("add pod %v to network %s: %w", p, network, err)
	}
	return nil
}

// Detach does the CNI DEL of a second network.
func (p *Pod) Detach(ctx context.Context, network, device string) error {
	cni, list, err := p.Node.secondary(network)
	if err != nil {
		return err
	}
	if err := cni.DelNetworkList(ctx, list, p.runtimeConf(device)); err != nil {
		return fmt.Errorf("take pod %v off network %s: %w", p, network, err)
	}
	return nil
}
