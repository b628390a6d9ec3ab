// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/configdump"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Mesh is what a node knows of addresses beside pods and services.
type Mesh struct {
	CIDRs []netip.Prefix  `json:"cidrs"` // of the API server, beside Config.MeshCIDRs
	Nodes []workload.Node `json:"nodes"`
}

// Foreign is the workloads of other trust domains that a node's pods may dial.
type Foreign struct {
	Domains []workload.ForeignDomain `json:"domains"`
	Former  []workload.ForeignDomain `json:"former"`  // CIDRs of before, which stay refused
	Problem string                   `json:"problem"` // with the file that names them; empty: none
}

// Host is what a node is like, as far as that may be in the way of a mesh.
type Host struct {
	Kernel  string  `json:"kernel"`  // as uname -r
	Cgroups string  `json:"cgroups"` // v2 or hybrid
	Others  []Other `json:"others"`
	Problem string  `json:"problem"` // why Others are not known
}

// Other is a BPF program of another hand.
type Other struct {
	ID   uint32 `json:"id"`
	Name string `json:"name"`
	Kind string `json:"kind"` // sock_ops, connect4, connect6, sk_msg or sk_skb
}

// Steering is what the kernel does not do as it should.
type Steering struct {
	Problem string   `json:"problem"` // that could not be put right; empty
	Repairs []Repair `json:"repairs"` // the youngest last
}

// Repair is something that another hand removed and ztunnel restored.
type Repair struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	Pod  string    `json:"pod,omitempty"` // namespace/name; empty: it concerns all
}

// OpenTunnel is a tunnel of a pod.
type OpenTunnel struct {
	Direction string         `json:"direction"` // outbound: the pod made it
	Peer      string         `json:"peer"`      // its identity
	Address   netip.AddrPort `json:"address"`   // of the peer's end
	Tunnel
}

// Refused is an access record of a connection that was refused or broken off.
type Refused struct {
	Time      time.Time      `json:"time"`
	Direction string         `json:"direction"`
	Result    string         `json:"result"`
	Error     string         `json:"error,omitempty"`
	Policy    string         `json:"policy,omitempty"`
	Source    RefusedEnd     `json:"source"`
	Dest      RefusedEnd     `json:"destination"`
	Asked     netip.AddrPort `json:"asked,omitzero"` // what the app connected to: of a Service, its address
}

// RefusedEnd is one end of it, as far as its node knows it.
type RefusedEnd struct {
	Address   netip.AddrPort `json:"address,omitzero"`
	Namespace string         `json:"namespace,omitempty"`
	Pod       string         `json:"pod,omitempty"`
	Identity  string         `json:"identity,omitempty"` // proven
}

// Name is namespace/name of the pod, or the address if it is not known.
func (e RefusedEnd) Name() string {
	if e.Pod != "" {
		return e.Namespace + "/" + e.Pod
	}
	if !e.Address.IsValid() {
		return ""
	}
	return e.Address.Addr().Unmap().String()
}

// Services are those of a node, without the hints that say who should prefer which
// endpoint.
type Services []workload.Service

// UnmarshalJSON is part of json.Unmarshaler.
func (s *Services) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		return nil // of another program
	}
	var dumped []configdump.Service
	if err := json.Unmarshal(data, &dumped); err != nil {
		return fmt.Errorf("services: %v", err)
	}
	for _, d := range dumped {
		service, err := serviceOf(d)
		if err != nil {
			return fmt.Errorf("service %s/%s: %v", d.Namespace, d.Name, err)
		}
		*s = append(*s, service)
	}
	return nil
}

func serviceOf(d configdump.Service) (s workload.Service, err error) {
	s = workload.Service{
		Namespace: d.Namespace, Name: d.Name, LoadBalancerIPs: d.LoadBalancerIPs, ExternalIPs: d.ExternalIPs,
		SourceRanges: d.SourceRanges, Headless: d.Headless, Local: d.Local, InternalLocal: d.InternalLocal,
	}
	for _, text := range d.VIPs {
		vip, err := netip.ParseAddr(text[strings.LastIndex(text, "/")+1:])
		if err != nil {
			return s, err
		}
		s.VIPs = append(s.VIPs, vip)
	}
	for number := range d.Ports {
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return s, err
		}
		p := workload.ServicePort{Port: uint16(port), Name: d.PortNames[number], NodePort: d.NodePorts[number]}
		for _, key := range slices.Sorted(maps.Keys(d.Endpoints)) {
			e := d.Endpoints[key]
			target, has := e.Port[p.Port]
			if !has {
				continue
			}
			for _, addr := range e.Addresses {
				p.Endpoints = append(p.Endpoints, workload.Endpoint{Addr: netip.AddrPortFrom(addr, target), Node: e.Node, Leaving: e.Leaving})
			}
		}
		s.Ports = append(s.Ports, p)
	}
	slices.SortFunc(s.Ports, func(a, b workload.ServicePort) int { return int(a.Port) - int(b.Port) })
	return s, nil
}
