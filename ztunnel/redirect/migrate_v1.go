// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// fromV1 says what becomes of each map when pins of layout v1 are taken over.
// A pod of v1 has no stand-ins, so it keeps the path by its own address until it
// is enrolled again.
var fromV1 = map[string]carry{
	"bypass":         same,
	"counters":       converted(countersOfV1),
	"excluded_cidrs": same,
	"excluded_ports": same,
	"forward_guard":  emptied, // new
	"inner":          same,
	"listeners":      emptied, // more room; its sockets ended with their process
	"nobody":         emptied, // new
	"original_dst":   emptied, // of connects that are under way, and refused
	"own_ips":        same,
	"pod_ips":        same,
	"pods":           same, // what was padding, and zero, is the id of stand-ins
	"probe_ports":    same,
	"refused_until":  emptied, // new
	"routed":         emptied, // new; see noteRouting
	"sockets":        same,
}

// countersV1 are our indices of v1's counters, in v1's order.
var countersV1 = [...]meshCounter{
	meshCounterOUTBOUND_STEERED, // OUTBOUND_CAPTURED
	meshCounterOUTBOUND_ZTUNNEL,
	meshCounterOUTBOUND_LOCAL,
	meshCounterOUTBOUND_EXCLUDED,
	meshCounterOUTBOUND_REFUSED_FAMILY,
	meshCounterOUTBOUND_REFUSED_LINK_LOCAL,
	meshCounterOUTBOUND_REFUSED_STATE,
	meshCounterOUTBOUND_REFUSED_TUPLE,
	meshCounterORIGINAL_DST_LOST,
	meshCounterORIGINAL_DST_TAKEN,
	meshCounterPROBE_EXEMPTED,
	meshCounterPROBE_LOST,
	meshCounterINBOUND_LOCAL,
	meshCounterINBOUND_PROBE,
	meshCounterINBOUND_INNER,
	meshCounterINBOUND_HBONE,
	meshCounterINBOUND_PLAINTEXT,
	meshCounterINBOUND_REFUSED_ADDRESS,
	meshCounterINBOUND_REFUSED_LISTENER,
}

func countersOfV1(ours, old *ebpf.Map) error {
	var problems []error
	for index, counter := range countersV1 {
		var perCPU []uint64
		err := old.Lookup(uint32(index), &perCPU)
		if err == nil {
			err = ours.Put(uint32(counter), perCPU)
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// setByV1 are the sysctls that v1 set, as bits in the order of sysctls.
const setByV1 = 1<<3 - 1

// noteRouting remembers that the pods of v1 are routed: that version kept no record,
// and without one nobody would undo it when they leave. What its sysctls were before
// nobody knows. The kernel gives a new netns 0 for each of them, whatever its parent
// has, and so they are set back to 0: an app that had set one itself loses that.
func (d *Datapath) noteRouting(v1 former) error {
	names, err := pinsIn(v1.pods)
	if err != nil {
		return err
	}
	for _, name := range names {
		cookie, ok := parseCookie(name)
		if !ok {
			continue
		}
		err := d.mesh.Routed.Update(uint64(cookie), uint32(setByV1), ebpf.UpdateNoExist)
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("remember what layout v1 routed: %w", err)
		}
	}
	return nil
}
