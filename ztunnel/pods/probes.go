// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"net"
	"strconv"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// warnOfProbes says once of each pod of the node that a probe of it names
// another host, and of each pod here that its own probes pass its policy since.
// Only Run's goroutine calls it.
func (p *Pods) warnOfProbes() {
	said := map[string]bool{}
	once := func(key string, say func()) {
		if said[key] = true; !p.said[key] {
			say()
		}
	}
	for _, w := range p.Registry.ProbingOthers(p.Node) {
		for _, probe := range w.ForeignProbes {
			to := foreign(probe)
			once(w.UID+" "+to, func() {
				p.Metrics.ForeignProbe()
				p.Log.Warn("a probe names another host, where it is not exempt from policy", logPod, w.String(), logHost, to)
			})
		}
	}
	for _, w := range p.Registry.Local(p.Node) {
		for _, t := range w.TakenProbes {
			once(w.UID+" "+strconv.Itoa(int(t.Port))+" "+t.By, func() {
				p.Log.Warn("probes of a port are not exempt from policy: the probe of another pod leads there, or may",
					logPod, w.String(), logPort, t.Port, logOther, t.By)
			})
		}
	}
	p.said = said
}

// foreign is where a probe leads, as host:port.
func foreign(p workload.ForeignProbe) string {
	return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
}
