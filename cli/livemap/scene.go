// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const (
	maxWorkloads = 5000 // that are shown to one viewer
	maxProblems  = 5    // of one workload

	enrolled = "enrolled" // ztunnel's word for a pod that it carries
)

// Scene is who is there at one moment. It is not changed once it is made, and shares what is
// as it was with the scene before.
type Scene struct {
	Nodes        []*Node
	Workloads    []*Workload    // by ID
	Certificates []*Certificate // the one that ends first is the first

	namespaces []string // of all workloads
}

// Node is one of the mesh.
type Node struct {
	Name    string `json:"name"`
	CA      string `json:"ca"`                // the word for what the CA last said to it
	Problem string `json:"problem,omitempty"` // why it did not answer
}

// Workload is the pods of one owner.
type Workload struct {
	ID        string   `json:"id"` // NAMESPACE/NAME
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Nodes     []string `json:"nodes"`
	Pods      int      `json:"pods"`
	Intended  int      `json:"intended"` // pods that labels put in the mesh
	Enrolled  int      `json:"enrolled"` // of them, those that a node serves and steers
	Verified  int      `json:"verified"` // of these, those that the kernel confirms
	Mode      string   `json:"mode,omitempty"`
	ModeBy    string   `json:"modeBy,omitempty"`   // the object that set it, or default
	Problems  []string `json:"problems,omitempty"` // POD: what is wrong
}

// Certificate is what the nodes hold for one identity.
type Certificate struct {
	Identity  string    `json:"identity"`
	Namespace string    `json:"namespace,omitempty"` // of its ServiceAccount
	Nodes     []string  `json:"nodes"`
	From      time.Time `json:"from,omitzero"`  // of the one that ends first
	Until     time.Time `json:"until,omitzero"` // when its chain or its root ends; zero: there is none
	Serial    string    `json:"serial,omitempty"`
	Problem   string    `json:"problem,omitempty"` // what the last renewal failed with, or that it is overdue
}

// sceneOf is what the nodes that answered know.
func sceneOf(nodes []fleet.Node, m *mesh) *Scene {
	s := &Scene{Nodes: []*Node{}, Workloads: workloadsOf(nodes, m), Certificates: certificatesOf(nodes), namespaces: []string{}}
	for _, n := range nodes {
		s.Nodes = append(s.Nodes, &Node{Name: n.Name, CA: n.Dump.CA.Reason, Problem: n.Problem})
	}
	for _, w := range s.Workloads {
		if n := len(s.namespaces); n == 0 || s.namespaces[n-1] != w.Namespace { // they are sorted
			s.namespaces = append(s.namespaces, w.Namespace)
		}
	}
	return s
}

// workloadsOf are those of the mesh, with what each node says of its pods.
func workloadsOf(nodes []fleet.Node, m *mesh) []*Workload {
	states := map[string]fleet.Pod{}
	for _, n := range nodes {
		for uid, pod := range n.Dump.Pods {
			if known, twice := states[uid]; !twice || known.State != enrolled {
				states[uid] = pod
			}
		}
	}
	policies := policy.NewSet()
	policies.Replace(m.policies)
	all := map[string]*Workload{}
	for _, w := range m.workloads {
		if w.Terminated {
			continue
		}
		end := endOf(w)
		if all[name(end)] == nil {
			all[name(end)] = &Workload{ID: name(end), Namespace: w.Namespace, Name: end.Workload}
		}
		all[name(end)].add(w, states[w.UID], policies)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *Workload) int { return strings.Compare(a.ID, b.ID) })
}

// add counts one pod.
func (w *Workload) add(pod workload.Workload, state fleet.Pod, policies *policy.Set) {
	w.Pods++
	if i, there := slices.BinarySearch(w.Nodes, pod.Node); !there && pod.Node != "" {
		w.Nodes = slices.Insert(w.Nodes, i, pod.Node)
	}
	problem := pod.Unsteerable
	switch {
	case pod.Meshed:
		w.Intended++
		mode, by := policies.Effective(pod, 0) // no port is 0
		w.Mode, w.ModeBy = mode.String(), cmp.Or(by, "default")
		problem = w.enroll(state)
	case pod.Undecided:
		problem = "no label says whether it is in the mesh, or one means nothing"
	}
	if problem != "" && len(w.Problems) < maxProblems {
		w.Problems = append(w.Problems, pod.Name+": "+problem)
	}
}

// enroll counts a pod that should be in the mesh, and returns what is wrong with it.
func (w *Workload) enroll(state fleet.Pod) string {
	if state.State != enrolled {
		return strings.TrimSuffix(cmp.Or(state.State, "no node has enrolled it")+": "+state.Reason, ": ")
	}
	w.Enrolled++
	if state.Reason != "" {
		return state.Reason
	}
	w.Verified++
	if c := state.Certificate; c != nil && c.State != "valid" {
		return strings.TrimSuffix("its certificate is "+c.State+": "+c.Error, ": ")
	}
	return ""
}

// certificatesOf has each identity once, by the certificate that ends first.
func certificatesOf(nodes []fleet.Node) []*Certificate {
	all := map[string]*Certificate{}
	for _, n := range nodes {
		for _, h := range n.Dump.Certificates {
			c := all[h.Identity]
			if c == nil {
				c = &Certificate{Identity: h.Identity, Namespace: namespaceOf(h.Identity)}
				all[h.Identity] = c
			}
			c.Nodes = append(c.Nodes, n.Name)
			c.hold(h)
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *Certificate) int {
		return cmp.Or(a.Until.Compare(b.Until), strings.Compare(a.Identity, b.Identity))
	})
}

func (c *Certificate) hold(h fleet.Held) {
	if r := h.Renewal; r != nil && (r.Error != "" || r.Overdue) {
		c.Problem = cmp.Or(r.Error, "its renewal is overdue")
	}
	leaf := h.Leaf()
	if leaf == nil {
		c.Problem = cmp.Or(c.Problem, h.State)
		return
	}
	if until := h.Until(); c.Until.IsZero() || until.Before(c.Until) {
		c.From, c.Until, c.Serial = leaf.NotBefore, until, leaf.SerialNumber.Text(16)
	}
}

// namespaceOf is that of an identity's ServiceAccount; empty: it is none of Kubernetes.
func namespaceOf(id string) string {
	_, path, _ := strings.Cut(strings.TrimPrefix(id, "spiffe://"), "/")
	if parts := strings.Split(path, "/"); len(parts) == 4 && parts[0] == "ns" && parts[2] == "sa" {
		return parts[1]
	}
	return ""
}

// values are what pointers of a map lead to.
func values[K comparable, V any](m map[K]*V) func(yield func(V) bool) {
	return func(yield func(V) bool) {
		for v := range maps.Values(m) {
			if !yield(*v) {
				return
			}
		}
	}
}

// share takes from the scene before what has not changed, and returns how many bytes the rest
// keeps, about. A pod that changes in each frame must not keep the whole mesh in each.
func (s *Scene) share(before *Scene) (bytes int) {
	nodes := share(&s.Nodes, before.Nodes, func(n *Node) string { return n.Name })
	workloads := share(&s.Workloads, before.Workloads, func(w *Workload) string { return w.ID })
	certificates := share(&s.Certificates, before.Certificates, func(c *Certificate) string { return c.Identity })
	if slices.Equal(s.namespaces, before.namespaces) {
		s.namespaces = before.namespaces
	}
	return nodes + workloads + certificates
}

// share is that of one list.
func share[T sized](now *[]T, before []T, key func(T) string) (bytes int) {
	known, same := map[string]T{}, len(*now) == len(before)
	for _, one := range before {
		known[key(one)] = one
	}
	for i, one := range *now {
		if old, found := known[key(one)]; found && reflect.DeepEqual(old, one) {
			(*now)[i], same = old, same && before[i] == old
			continue
		}
		same = false
		bytes += one.bytes()
	}
	if same {
		*now = before
		return 0
	}
	return bytes + 8*len(*now)
}

// sized knows how many bytes it keeps, about.
type sized interface {
	comparable
	bytes() int
}

func (n *Node) bytes() int { return 64 + len(n.Name+n.CA+n.Problem) }

func (w *Workload) bytes() int {
	return 192 + len(w.ID+w.Namespace+w.Name+w.Mode+w.ModeBy) + textsOf(w.Nodes) + textsOf(w.Problems)
}

func (c *Certificate) bytes() int {
	return 192 + len(c.Identity+c.Namespace+c.Serial+c.Problem) + textsOf(c.Nodes)
}

func textsOf(all []string) (bytes int) {
	for _, text := range all {
		bytes += 16 + len(text)
	}
	return bytes
}
