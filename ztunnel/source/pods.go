// SPDX-License-Identifier: Apache-2.0

package source

import (
	"maps"
	"unique"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// pods are the workloads, side by side so that a snapshot is one copy of the list.
type pods struct {
	packer    *workload.Packer
	workloads []*workload.Packed
	entries   []podEntry                  // of the workload at the same place
	byName    map[string]map[string]int32 // their places, by namespace and name
}

// podEntry is what must be known of a pod beside its workload, in 16 bytes.
type podEntry struct {
	place                         unique.Handle[place]
	sidecar, serving, terminating bool
}

func newPods() pods {
	return pods{packer: workload.NewPacker(), byName: map[string]map[string]int32{}}
}

func (p *pods) find(name Name) (at int32, known bool) {
	at, known = p.byName[name.Namespace][name.Name]
	return at, known
}

// put gives a pod a place, or its former one.
func (p *pods) put(name Name, e podEntry, w workload.Workload) {
	if at, known := p.find(name); known {
		p.workloads[at], p.entries[at] = p.packer.Replace(p.workloads[at], w), e
		return
	}
	packed, at := p.packer.Pack(w), int32(len(p.entries))
	p.workloads, p.entries = append(p.workloads, packed), append(p.entries, e)
	if p.byName[name.Namespace] == nil {
		p.byName[name.Namespace] = map[string]int32{}
	}
	p.byName[name.Namespace][packed.Name] = at
}

// take lets the last pod have the place of the one that goes.
func (p *pods) take(name Name, at int32) {
	p.packer.Release(p.workloads[at])
	last := len(p.entries) - 1
	moved := p.workloads[last]
	p.workloads[at], p.entries[at] = moved, p.entries[last]
	p.byName[moved.Namespace][moved.Name] = at
	p.workloads[last], p.entries[last] = nil, podEntry{}
	p.workloads, p.entries = p.workloads[:last], p.entries[:last]
	if delete(p.byName[name.Namespace], name.Name); len(p.byName[name.Namespace]) == 0 {
		delete(p.byName, name.Namespace)
	}
}

func (b *Builder) setPod(name Name, o *corev1.Pod) error {
	if b.options.AccountsOnly && o.Spec.ServiceAccountName == "" {
		b.deletePod(name)
		return nil
	}
	e, w, err := newPod(o, b.options)
	if err != nil {
		b.deletePod(name)
		return err
	}
	at, known := b.pods.find(name)
	if !known || b.pods.entries[at].place != e.place {
		b.nodes.add(e.place)
		b.leave(name)
	}
	b.join(e, &w, o.Labels)
	if known && (w.Meshed != b.pods.workloads[at].Meshed || w.Undecided != b.pods.workloads[at].Undecided) {
		b.decisions++
	}
	b.pods.put(name, e, w)
	b.services.podChanged(name.Namespace)
	return nil
}

func (b *Builder) deletePod(name Name) {
	at, known := b.pods.find(name)
	if !known {
		return
	}
	b.leave(name)
	b.pods.take(name, at)
	b.services.podChanged(name.Namespace)
}

// leave takes what a pod tells of its node.
func (b *Builder) leave(name Name) {
	if at, known := b.pods.find(name); known {
		b.nodes.remove(b.pods.entries[at].place)
	}
}

// join says whether a pod with these labels is in the mesh, by them, those of its namespace,
// and its RuntimeClass.
func (b *Builder) join(e podEntry, w *workload.Workload, labels map[string]string) {
	namespace, known := b.namespaces[w.Namespace]
	in, decided := meshed(namespace.Labels, labels, b.options)
	may := !w.HostNetwork && !e.sidecar
	_, strange := StrangeLabel(labels)
	_, strangeNamespace := StrangeLabel(namespace.Labels)
	w.Undecided = may && !decided && (!known || strange || strangeNamespace)
	w.Unsteerable = ""
	if in {
		w.Unsteerable = e.unsteerable(w.HostNetwork, b.classes)
	}
	w.Meshed = in && w.Unsteerable == ""
}

// rejoin does so for the pod at a place, of which something else has changed.
func (b *Builder) rejoin(at int32) {
	old := b.pods.workloads[at]
	w := old.Workload()
	b.join(b.pods.entries[at], &w, maps.Collect(w.Labels.All()))
	if w.Meshed != old.Meshed || w.Undecided != old.Undecided || w.Unsteerable != old.Unsteerable {
		b.pods.workloads[at] = b.pods.packer.Replace(old, w)
		b.decisions++
	}
}

func (b *Builder) joinNamespace(namespace string) {
	for _, at := range b.pods.byName[namespace] {
		b.rejoin(at)
	}
}

// joinClass goes over all pods: RuntimeClasses hardly ever change.
func (b *Builder) joinClass(name string) {
	for at, e := range b.pods.entries {
		if e.place.Value().runtimeClass == name {
			b.rejoin(int32(at))
		}
	}
}
