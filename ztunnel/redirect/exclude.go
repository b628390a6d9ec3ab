// SPDX-License-Identifier: Apache-2.0

package redirect

import "fmt"

// exclude makes the exclusion maps say what the options do: new entries
// before old ones go, as pods may be running on an earlier run's.
func (d *Datapath) exclude() error {
	cidrs := make(map[meshCidr]bool)
	for _, p := range d.opts.ExcludeCIDRs {
		cidrs[wireCIDR(p)] = true
		if err := d.mesh.ExcludedCidrs.Put(wireCIDR(p), uint8(1)); err != nil {
			return fmt.Errorf("exclude %v: %w", p, err)
		}
	}
	ports := make(map[uint16]bool)
	for _, port := range d.opts.ExcludePorts {
		ports[wirePort(port)] = true
		if err := d.mesh.ExcludedPorts.Put(wirePort(port), uint8(1)); err != nil {
			return fmt.Errorf("exclude port %d: %w", port, err)
		}
	}
	if err := sweep(d.mesh.ExcludedCidrs, func(c meshCidr, _ *uint8) bool { return !cidrs[c] }); err != nil {
		return err
	}
	return sweep(d.mesh.ExcludedPorts, func(p uint16, _ *uint8) bool { return !ports[p] })
}
