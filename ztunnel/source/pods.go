// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// pods are the workloads, side by side so that a snapshot is one copy of them.
type pods struct {
	workloads []workload.Workload
	entries   []*podEntry // of the workload at the same place
	byName    map[string]map[string]*podEntry
}

// podEntry is what must be known of a pod beside its workload.
type podEntry struct {
	at                   int // its place in pods.workloads
	sidecar              bool
	serving, terminating bool
	runtimeClass         string
	hostAddrs            []netip.Addr
}

func newPods() pods { return pods{byName: map[string]map[string]*podEntry{}} }

func (p *pods) find(name Name) *podEntry { return p.byName[name.Namespace][name.Name] }

// put gives a pod a place, or its former one.
func (p *pods) put(name Name, e podEntry, w workload.Workload) *podEntry {
	if old := p.find(name); old != nil {
		e.at = old.at
		*old = e
		p.workloads[e.at] = w
		return old
	}
	e.at = len(p.workloads)
	p.workloads, p.entries = append(p.workloads, w), append(p.entries, &e)
	if p.byName[name.Namespace] == nil {
		p.byName[name.Namespace] = map[string]*podEntry{}
	}
	p.byName[name.Namespace][name.Name] = &e
	return &e
}

// take lets the last pod have the place of the one that goes.
func (p *pods) take(name Name, e *podEntry) {
	last := len(p.entries) - 1
	p.workloads[e.at], p.entries[e.at] = p.workloads[last], p.entries[last]
	p.entries[e.at].at = e.at
	p.workloads[last], p.entries[last] = workload.Workload{}, nil
	p.workloads, p.entries = p.workloads[:last], p.entries[:last]
	if delete(p.byName[name.Namespace], name.Name); len(p.byName[name.Namespace]) == 0 {
		delete(p.byName, name.Namespace)
	}
}

func (b *Builder) setPod(name Name, o *corev1.Pod) error {
	e, w, err := newPod(o, b.options)
	if err != nil {
		b.deletePod(name)
		return err
	}
	b.nodes.add(w.Node, e.hostAddrs) // before the former ones go: most stay
	b.forgetHost(name)
	b.join(b.pods.put(name, e, w))
	b.services.podChanged(name.Namespace)
	return nil
}

func (b *Builder) deletePod(name Name) {
	e := b.pods.find(name)
	if e == nil {
		return
	}
	b.forgetHost(name)
	b.pods.take(name, e)
	b.services.podChanged(name.Namespace)
}

func (b *Builder) forgetHost(name Name) {
	if e := b.pods.find(name); e != nil {
		b.nodes.remove(b.pods.workloads[e.at].Node, e.hostAddrs)
	}
}

// join says whether a pod is in the mesh, by its labels, those of its namespace,
// and its RuntimeClass.
func (b *Builder) join(e *podEntry) {
	w := &b.pods.workloads[e.at]
	namespace, known := b.namespaces[w.Namespace]
	in, decided := meshed(namespace.Labels, w.Labels, b.options)
	may := !w.HostNetwork && !e.sidecar
	_, strange := StrangeLabel(w.Labels)
	_, strangeNamespace := StrangeLabel(namespace.Labels)
	w.Undecided = may && !decided && (!known || strange || strangeNamespace)
	w.Unsteerable = ""
	if in {
		w.Unsteerable = e.unsteerable(w.HostNetwork, b.classes)
	}
	w.Meshed = in && w.Unsteerable == ""
}

func (b *Builder) joinNamespace(namespace string) {
	for _, e := range b.pods.byName[namespace] {
		b.join(e)
	}
}

// rejoin goes over all pods: RuntimeClasses hardly ever change.
func (b *Builder) rejoin(concerned func(*podEntry) bool) {
	for _, e := range b.pods.entries {
		if concerned(e) {
			b.join(e)
		}
	}
}
