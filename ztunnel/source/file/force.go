// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// force is what is in force, object by object. An object changes
//
//   - at once, if that narrows: more are in the mesh, fewer are let in; but not a pod that
//     is new and whose text may go on;
//   - else when the files that it stood and stands in have been the same for Options.Confirm,
//     since one that is half written lacks a label, a policy or an object;
//   - not at all while what stands there is not understood, or stands twice.
//
// What is missing is deleted by the same rule, and not while anything cannot be read
// that may be any object; but a pod is whose address another one has.
type force struct {
	builder *source.Builder
	entries map[key]entry   // object nil: a policy that was never understood, the strictest it may be
	uids    map[string]key  // of the pods among them
	shown   map[key]sum     // of the text whose status a pod shows, while the rest of it waits
	early   map[string]bool // namespaces that enforce NetworkPolicies, while the rest of them waits
}

// order is that of source.Build, so that each pod is decided once.
var order = []source.Kind{
	source.KindNamespace, source.KindServiceAccount, source.KindRuntimeClass, source.KindNode, source.KindPod,
	source.KindService, source.KindEndpointSlice, source.KindPeerAuthentication, source.KindAuthorizationPolicy,
	source.KindNetworkPolicy,
}

// seen is what one look at the directory saw.
type seen struct {
	now     time.Time
	claims  map[key][]entry
	keys    []key // of claims, in the order of files
	blind   bool  // something that may be any object cannot be read
	errs    report
	changed bool
	held    int
	wait    time.Duration // until what is held may be in force; 0: nothing is
	early   map[string]bool
}

func (v *seen) fail(e entry, format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("%v: %v: %s", e.place, e.key, fmt.Sprintf(format, args...)))
}

func (v *seen) hold(wait time.Duration) {
	if v.held++; v.wait == 0 || wait < v.wait {
		v.wait = wait
	}
}

// claim takes what stands in a file.
func (v *seen) claim(c contents) {
	v.blind = v.blind || c.blind
	for _, e := range c.entries {
		if e.name.Name == "" {
			continue
		}
		if v.claims[e.key] == nil {
			v.keys = append(v.keys, e.key)
		}
		v.claims[e.key] = append(v.claims[e.key], e)
	}
}

// doubt marks what stands twice: of two, neither would be the one that somebody meant.
func (v *seen) doubt() {
	uids := map[string]key{}
	for _, k := range v.keys {
		all := v.claims[k]
		for _, e := range all[1:] {
			v.fail(e, "is also in %v", all[0].place)
		}
		pod, is := all[0].object.(*corev1.Pod)
		if !is || len(all) > 1 {
			continue
		}
		first, twice := uids[string(pod.UID)]
		if !twice {
			uids[string(pod.UID)] = k
			continue
		}
		v.fail(all[0], "metadata.uid: %q: is also that of %v in %v", pod.UID, first, v.claims[first][0].place)
		v.claims[k][0].broken, v.claims[first][0].broken = true, true
		v.claims[k][0].object, v.claims[first][0].object = nil, nil
	}
}

// settle brings into force what may be.
func (s *Source) settle(v *seen) {
	v.doubt()
	s.dropMissing(v)
	for _, kind := range order {
		for _, k := range v.keys {
			if k.kind == kind {
				s.settleOne(v, k)
			}
		}
	}
	s.keepEarly(v)
	if !maps.Equal(s.force.early, v.early) {
		s.force.early, v.changed = v.early, true
		s.force.builder.Enforce(v.early)
	}
}

func (s *Source) dropMissing(v *seen) {
	var follows func(entry) bool
	for k, old := range s.force.entries {
		if v.claims[k] != nil {
			continue
		}
		if follows == nil {
			follows = v.successors()
		}
		replaced := follows(old)
		if v.blind && !replaced {
			s.takeBack(v, old)
			continue
		}
		if wait := s.restsIn(v, old, old); wait > 0 && k.kind != source.KindEndpointSlice && !replaced {
			v.hold(wait)
			continue
		}
		s.force.builder.Delete(k.kind, k.name)
		s.force.forget(old)
		delete(s.force.entries, k)
		delete(s.force.shown, k)
		v.changed = true
	}
}

// forget takes out a pod's UID.
func (f *force) forget(old entry) {
	if pod, is := old.object.(*corev1.Pod); is && f.uids[string(pod.UID)] == old.key {
		delete(f.uids, string(pod.UID))
	}
}

// renamed reports whether a pod is in force by another name, which half a file may have
// too: it is no new pod then. But if the pod of that name becomes another one now, and
// those whose names follow do, all take each other's UIDs.
func (s *Source) renamed(v *seen, next entry) bool {
	e := next
	for range v.keys {
		pod, is := e.object.(*corev1.Pod)
		if !is {
			return false
		}
		of, known := s.force.uids[string(pod.UID)]
		if !known || of == next.key {
			return false
		}
		others := v.claims[of]
		if len(others) != 1 || others[0].broken || others[0].open && s.restsIn(v, s.force.entries[of], others[0]) > 0 {
			return true
		}
		e = others[0]
	}
	return true
}

// successors returns whether another pod has an address of a pod now: two cannot.
func (v *seen) successors() func(entry) bool {
	addrs := map[netip.Addr]string{}
	for _, k := range v.keys {
		if pod, is := v.claims[k][0].object.(*corev1.Pod); is {
			for _, addr := range podAddrs(pod) {
				addrs[addr] = string(pod.UID)
			}
		}
	}
	return func(old entry) bool {
		pod, is := old.object.(*corev1.Pod)
		return is && slices.ContainsFunc(podAddrs(pod), func(a netip.Addr) bool { return addrs[a] != "" && addrs[a] != string(pod.UID) })
	}
}

func podAddrs(pod *corev1.Pod) (out []netip.Addr) {
	for _, ip := range podIPs(&pod.Status) {
		if addr, err := netip.ParseAddr(ip); err == nil && !pod.Spec.HostNetwork {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

func (s *Source) settleOne(v *seen, k key) {
	old, known := s.force.entries[k]
	next := v.claims[k][0]
	switch {
	case !next.broken && len(v.claims[k]) == 1 && s.renamed(v, next):
		v.hold(s.options.Confirm) // until the other name is gone
		return
	case len(v.claims[k]) > 1 || next.broken:
		s.takeBack(v, old)
		anew := !known || old.object == nil && old.text != next.text // a policy, never understood
		if wait := s.quietIn(v.now, next.file); anew && wait > 0 && isPolicy(string(k.kind)) {
			v.hold(wait) // it may be half written: nobody is refused for that
		} else if anew {
			s.distrust(v, v.claims[k])
		}
		return
	case known && old.text == next.text && !old.broken:
		s.takeBack(v, old)
		s.force.entries[k] = next // it may have moved to another file
		return
	case s.atOnce(old, known, next):
		s.put(v, old, next)
		return
	}
	wait := s.restsIn(v, old, next)
	if wait == 0 {
		s.put(v, old, next)
		return
	}
	v.hold(wait)
	v.enforce(next)
	s.showStatus(v, old, next)
}

// enforce notes a namespace that waits, and will enforce NetworkPolicies: that holds at once.
func (v *seen) enforce(next entry) {
	if ns, is := next.object.(*corev1.Namespace); is {
		if mode, _ := networkpolicy.ModeOf(ns.Labels); mode == networkpolicy.Enforce {
			v.early[ns.Name] = true
		}
	}
}

// keepEarly has namespaces go on enforcing early while what they say cannot be read, or is
// not understood: a file that is being rewritten would open them for a moment.
func (s *Source) keepEarly(v *seen) {
	for name := range s.force.early {
		claims := v.claims[key{source.KindNamespace, source.Name{Name: name}}]
		unread := len(claims) == 0 && v.blind
		if unread || len(claims) > 1 || len(claims) == 1 && claims[0].broken {
			v.early[name] = true
		}
	}
}

// restsIn returns how long until the files that an object stood and stands in have been
// the same for long enough.
func (s *Source) restsIn(v *seen, old, next entry) time.Duration {
	wait := max(s.quietIn(v.now, old.file), s.quietIn(v.now, next.file))
	for _, file := range old.also {
		wait = max(wait, s.quietIn(v.now, file))
	}
	return wait
}

// atOnce reports whether what stands there may be in force before it has rested.
func (s *Source) atOnce(old entry, known bool, next entry) bool {
	switch {
	case known && old.mark == next.mark && !old.broken:
		return true
	case next.open && (!known || !samePod(old.object, next.object)):
		return false // by the rest of its text it may be under another identity
	}
	return (!known || old.object != nil) && s.narrows(old.object, next.object)
}

func samePod(old, next object) bool { return old != nil && old.GetUID() == next.GetUID() }

func (s *Source) put(v *seen, old, next entry) {
	v.changed = true
	if err := s.force.builder.Set(next.object); err != nil {
		v.fail(next, "%v", err)
		if old.object != nil {
			_ = s.force.builder.Set(old.object) // it was understood before
		}
		return
	}
	s.force.forget(old)
	if pod, is := next.object.(*corev1.Pod); is {
		s.force.uids[string(pod.UID)] = next.key
	}
	s.force.entries[next.key] = next
	delete(s.force.shown, next.key)
}

// showStatus lets a pod be ready, or end, while the rest waits. The pod keeps addresses
// that half a status may lack.
func (s *Source) showStatus(v *seen, old, next entry) {
	was, is := old.object.(*corev1.Pod)
	if !is || !samePod(was, next.object) || s.force.shown[old.key] == next.text {
		return
	}
	pod := *was
	pod.Status, pod.DeletionTimestamp = next.object.(*corev1.Pod).Status, next.object.GetDeletionTimestamp()
	if subset(podIPs(&pod.Status), podIPs(&was.Status)) {
		pod.Status.PodIP, pod.Status.PodIPs = was.Status.PodIP, was.Status.PodIPs
	}
	if subset(hostIPs(&pod.Status), hostIPs(&was.Status)) {
		pod.Status.HostIP, pod.Status.HostIPs = was.Status.HostIP, was.Status.HostIPs
	}
	if s.force.builder.Set(&pod) == nil {
		s.force.shown[old.key], v.changed = next.text, true
	}
}

// takeBack ends what showStatus showed: the text that said it is gone, and may have been
// half of another.
func (s *Source) takeBack(v *seen, old entry) {
	if _, shows := s.force.shown[old.key]; !shows {
		return
	}
	_ = s.force.builder.Set(old.object) // it was understood before
	delete(s.force.shown, old.key)
	v.changed = true
}

// distrust puts the strictest in force that an object may have meant which was never
// understood. A pod without one is unknown, and nobody reaches it.
func (s *Source) distrust(v *seen, all []entry) {
	e := all[0]
	one := len(all) == 1
	for _, other := range all[1:] {
		e.also = append(e.also, other.file)
	}
	meta := metav1.ObjectMeta{Namespace: e.name.Namespace, Name: e.name.Name}
	switch {
	case isPolicy(string(e.kind)) && one && e.rough != nil && !e.vague:
		s.force.builder.Distrust(e.rough)
	case e.kind == source.KindPeerAuthentication:
		s.force.builder.Distrust(&source.PeerAuthentication{ObjectMeta: meta})
	case e.kind == source.KindAuthorizationPolicy:
		s.force.builder.Distrust(&source.AuthorizationPolicy{ObjectMeta: meta})
	case e.kind == source.KindNetworkPolicy:
		p := &source.NetworkPolicy{}
		p.ObjectMeta = meta
		s.force.builder.Distrust(p)
	case e.object != nil && one:
		if err := s.force.builder.Set(e.object); err != nil { // of which a label is strange
			v.fail(e, "%v", err)
			return
		}
	default:
		return
	}
	if e.broken = true; isPolicy(string(e.kind)) {
		e.object = nil
	}
	s.force.entries[e.key], v.changed = e, true
}

// standing is since when a file, or its absence, is the same.
type standing struct {
	gone        bool
	rest, marks sum
	since       time.Time // of its rest: see contents
	asked       time.Time // of its marks
}

// quietIn returns how long until a file has been the same for long enough.
func (s *Source) quietIn(now time.Time, file string) time.Duration {
	f, known := s.files[file]
	if !known {
		return 0
	}
	return max(0, s.options.Confirm-now.Sub(f.since))
}

// stand notes how a file is at a look.
func (s *Source) stand(file string, next standing) {
	old, known := s.files[file]
	if known && old.gone == next.gone {
		if old.marks == next.marks {
			next.asked = old.asked
		}
		if old.rest == next.rest {
			next.since = old.since
		}
	}
	s.files[file] = next
}
