// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Workloads are packed ones. As JSON, too, what they share stands there once.
type Workloads []*Packed

// Pack packs workloads. Whoever packs them one by one has a Packer.
func Pack(workloads ...Workload) Workloads {
	packer := NewPacker()
	out := make(Workloads, len(workloads))
	for i, w := range workloads {
		out[i] = packer.Pack(w)
	}
	return out
}

// Unpack returns what they say.
func (w Workloads) Unpack() []Workload {
	out := make([]Workload, len(w))
	for i, packed := range w {
		out[i] = packed.Workload()
	}
	return out
}

// written is Workloads as JSON.
type written struct {
	Shared []*Shared
	Pods   []writtenPod
}

type writtenPod struct {
	UID, Name string
	Node      string `json:",omitempty"`
	Created   time.Time
	Addrs     []netip.Addr `json:",omitempty"`
	Shared    int          // its place in written.Shared

	Meshed      bool `json:",omitempty"`
	Undecided   bool `json:",omitempty"`
	HostNetwork bool `json:",omitempty"`
	Static      bool `json:",omitempty"`
	Ready       bool `json:",omitempty"`
	Terminated  bool `json:",omitempty"`
	Daemon      bool `json:",omitempty"`
	MayForward  bool `json:",omitempty"`
}

// MarshalJSON writes them as UnmarshalJSON reads them.
func (w Workloads) MarshalJSON() ([]byte, error) {
	out := written{Pods: make([]writtenPod, len(w))}
	places := map[*Shared]int{}
	for i, p := range w {
		place, known := places[p.Shared]
		if !known {
			place = len(out.Shared)
			places[p.Shared], out.Shared = place, append(out.Shared, p.Shared)
		}
		out.Pods[i] = writtenPod{
			UID: p.UID, Name: p.Name, Node: p.Node, Created: p.Created(), Addrs: p.Addrs, Shared: place,
			Meshed: p.Meshed, Undecided: p.Undecided, HostNetwork: p.HostNetwork, Static: p.Static,
			Ready: p.Ready, Terminated: p.Terminated, Daemon: p.Daemon, MayForward: p.MayForward,
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (w *Workloads) UnmarshalJSON(data []byte) error {
	var in written
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*w = make(Workloads, len(in.Pods))
	for i, p := range in.Pods {
		if p.Shared < 0 || p.Shared >= len(in.Shared) || in.Shared[p.Shared] == nil {
			return fmt.Errorf("pod %s shares what is not there", p.Name)
		}
		(*w)[i] = &Packed{
			UID: p.UID, Name: p.Name, Node: p.Node, Addrs: p.Addrs, created: p.Created.Unix(), Shared: in.Shared[p.Shared],
			Meshed: p.Meshed, Undecided: p.Undecided, HostNetwork: p.HostNetwork, Static: p.Static,
			Ready: p.Ready, Terminated: p.Terminated, Daemon: p.Daemon, MayForward: p.MayForward,
		}
	}
	return nil
}
