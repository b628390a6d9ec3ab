// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// exclude makes the exclusion maps say what the options do: new entries
// before old ones go, as pods may be running on an earlier run's. It says what
// it changed.
func (d *Datapath) exclude() (changed []string, err error) {
	cidrs := make(map[meshCidr]string)
	for _, p := range d.opts.ExcludeCIDRs {
		cidrs[wireCIDR(p)] = p.Masked().String()
	}
	ports := make(map[uint16]string)
	for _, port := range d.opts.ExcludePorts {
		ports[wirePort(port)] = fmt.Sprintf("port %d", port)
	}
	changed, err = setKeys(d.mesh.ExcludedCidrs, cidrs, func(c meshCidr) string { return goCIDR(c).String() })
	if err != nil {
		return changed, err
	}
	more, err := setKeys(d.mesh.ExcludedPorts, ports, func(p uint16) string { return fmt.Sprintf("port %d", wirePort(p)) })
	return append(changed, more...), err
}

// setExclusions is exclude for a start, when every change is meant.
func (d *Datapath) setExclusions() error {
	_, err := d.exclude()
	return err
}

// setKeys leaves the keys of want, which it names, and no others in m.
func setKeys[K comparable](m *ebpf.Map, want map[K]string, name func(K) string) (changed []string, err error) {
	have, err := keys[K](m)
	if err != nil {
		return nil, err
	}
	for key, name := range want {
		if have[key] {
			continue
		}
		if err := m.Put(key, uint8(1)); err != nil {
			return changed, fmt.Errorf("exclude %s: %w", name, err)
		}
		changed = append(changed, "exclusion of "+name+" was removed")
	}
	for key := range have {
		if _, ok := want[key]; ok {
			continue
		}
		if err := del(m, key); err != nil {
			return changed, fmt.Errorf("end the exclusion of %s: %w", name(key), err)
		}
		changed = append(changed, "exclusion of "+name(key)+" was added")
	}
	return changed, nil
}

// keys are the keys of a set. A lookup would not do: that of a trie finds
// shorter prefixes, too.
func keys[K comparable](m *ebpf.Map) (map[K]bool, error) {
	found := make(map[K]bool)
	var key K
	var value uint8
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		found[key] = true
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("walk %v: %w", m, err)
	}
	return found, nil
}
