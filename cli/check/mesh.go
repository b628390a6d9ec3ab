// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

const (
	enrolled = "enrolled"
	noneSays = "no node says it: older ztunnels"
)

// How long ago a pod may have been verified, and a repair be told: ztunnel asks the kernel
// every two seconds.
const (
	verifiedWithin = 30 * time.Second
	repairsWithin  = time.Hour
)

// The oldest kernel that the BPF programs load on.
const oldestMajor, oldestMinor = 5, 15

var nodeRules = []rule{
	{"node-kernel", CategoryNode, "every node's kernel is new enough",
		"Culvert needs Linux 5.15 or newer on each node of the mesh.", ofHosts(func(w *World, n fleet.Node, a *answer) {
			switch major, minor, ok := release(n.Dump.Host.Kernel); {
			case !ok:
				a.warn("node %s: %q is no version that is known here", n.Name, n.Dump.Host.Kernel)
			case major < oldestMajor || major == oldestMajor && minor < oldestMinor:
				a.fail("node %s has %q", n.Name, n.Dump.Host.Kernel)
			}
		})},
	{"node-bpf", CategoryNode, "no other BPF program moves bytes of pods' sockets",
		"Apps whose sockets are in a sockmap may miss bytes and wake-ups, in a mesh or not: see what loaded the program, bpftool prog show id ID.", ofHosts(func(w *World, n fleet.Node, a *answer) {
			if n.Dump.Host.Problem != "" {
				a.warn("node %s: not known: %s", n.Name, n.Dump.Host.Problem)
			}
			for _, o := range n.Dump.Host.Others {
				switch o.Kind {
				case "sk_msg", "sk_skb", "sock_ops":
					a.warn("node %s: %s program %q, id %d", n.Name, o.Kind, o.Name, o.ID)
				}
			}
		})},
	{"node-plugin", CategoryNode, "the CNI plugin is in its place on every node",
		"The container cni of ztunnel's pod says what it waits for, or who takes the plugin away.", func(w *World) (a answer) {
			return w.containers("ztunnel", "cni", a)
		}},
}

var dataRules = []rule{
	{"ztunnel-ready", CategoryData, "every node's ztunnel is ready",
		"Its log, and /healthz/ready on port 15021, say what it waits for.", func(w *World) (a answer) {
			return w.containers("ztunnel", "ztunnel", a)
		}},
	{"steering-sound", CategoryData, "every node's kernel steers as it should",
		"ztunnel puts back what others remove, and says what it cannot: see its log.", ofThose(steeringKnown, func(w *World) (a answer) {
			for _, n := range w.answered() {
				switch s := n.Dump.Steering; {
				case s == nil:
					a.warn("node %s does not say: an older ztunnel", n.Name)
				case s.Problem != "":
					a.fail("node %s: %s", n.Name, s.Problem)
				}
			}
			return a
		})},
	{"steering-repaired", CategoryData, "nobody removed what ztunnel attached, in the last hour",
		"ztunnel has put it back. See which program of the node does that: an agent that cleans up, another mesh.", ofThose(steeringKnown, func(w *World) (a answer) {
			for _, n := range w.answered() {
				if n.Dump.Steering == nil {
					continue
				}
				for _, r := range n.Dump.Steering.Repairs {
					if w.nowOn(n).Sub(r.At) < repairsWithin {
						a.warn("node %s at %s: %s%s", n.Name, stamp(r.At), r.What, because(r.Pod))
					}
				}
			}
			return a
		})},
}

var enrollRules = []rule{
	{"pods-enrolled", CategoryEnroll, "every pod that is to be in the mesh is enrolled by its node",
		"culvert status names the pods; culvert why POD … says which step is missing.", ofNodes(func(w *World) (a answer) {
			has := map[string]string{}
			for _, n := range w.answered() {
				for uid, pod := range n.Dump.Pods {
					if pod.State == enrolled || has[uid] == "" {
						has[uid] = pod.State + because(pod.Reason)
					}
				}
			}
			for _, pod := range w.intended() {
				if w.noZtunnel(pod.Node) {
					a.fail("%s/%s on node %s: there is no ztunnel", pod.Namespace, pod.Name, pod.Node)
					continue
				}
				switch state := has[pod.UID]; state {
				case enrolled:
				case "":
					a.fail("%s/%s on node %s: the node does not know it", pod.Namespace, pod.Name, pod.Node)
				default:
					a.fail("%s/%s on node %s: %s", pod.Namespace, pod.Name, pod.Node, state)
				}
			}
			return a
		})},
	{"pods-verified", CategoryEnroll, "the kernel confirms each enrolled pod",
		"ztunnel asks the kernel every two seconds, and repairs what it can: see its log.", ofThose(steeringKnown, func(w *World) (a answer) {
			for _, n := range w.answered() {
				if n.Dump.Steering == nil {
					continue // an older ztunnel, which does not say
				}
				for _, uid := range slices.Sorted(maps.Keys(n.Dump.Pods)) {
					switch pod := n.Dump.Pods[uid]; {
					case pod.State != enrolled:
					case pod.Verified.IsZero() && pod.Reason == "": // it may have been enrolled just now
						a.warn("%s/%s on node %s: not yet", pod.Sandbox.Namespace, pod.Sandbox.Name, n.Name)
					case pod.Verified.IsZero():
						a.fail("%s/%s on node %s: %s", pod.Sandbox.Namespace, pod.Sandbox.Name, n.Name, pod.Reason)
					case w.nowOn(n).Sub(pod.Verified) > verifiedWithin:
						a.fail("%s/%s on node %s: not since %s", pod.Sandbox.Namespace, pod.Sandbox.Name, n.Name, stamp(pod.Verified))
					}
				}
			}
			return a
		})},
}

var policyRules = []rule{
	{"policies-understood", CategoryPolicy, "every policy says only what Culvert can judge",
		"What cannot be judged narrows: docs/policy.md. culvert policy lint says the same of files.", ofNodes(func(w *World) (a answer) {
			objects := w.answered()[0].Dump.Policies // each node knows all
			for _, p := range objects.AuthorizationPolicies {
				for _, said := range p.Warnings {
					a.warn("AuthorizationPolicy %s/%s: %s", p.Namespace, p.Name, said)
				}
			}
			return a
		})},
	{"tunnels-let-through", CategoryPolicy, "no NetworkPolicy drops the mesh's tunnels",
		"The pod network drops port 15008 between these pods: add an ingress rule for it, as docs/policy.md shows.", ofThose(networkKnown, func(w *World) (a answer) {
			told := map[string]bool{}
			for _, n := range w.answered() {
				if n.Dump.Network == nil {
					continue
				}
				for _, p := range n.Dump.Network.Blocking {
					if !told[p] {
						told[p] = true
						a.fail("NetworkPolicy %s", p)
					}
				}
			}
			return a
		})},
}

var versionRules = []rule{
	{"one-version", CategoryVersion, "all nodes run one version of ztunnel",
		"A rollout is under way, or has stopped: kubectl rollout status daemonset/ztunnel.", ofNodes(func(w *World) (a answer) {
			by := map[string][]string{}
			for _, n := range w.answered() {
				by[n.Dump.Version] = append(by[n.Dump.Version], n.Name)
			}
			if len(by) > 1 {
				for _, version := range slices.Sorted(maps.Keys(by)) {
					a.warn("%s on %s", orUnknown(version), few(by[version]))
				}
			}
			return a
		})},
}

// ofHosts asks each node that says what it is like.
func ofHosts(ask func(*World, fleet.Node, *answer)) func(*World) answer {
	return ofThose(func(d fleet.Dump) bool { return d.Host != nil }, func(w *World) (a answer) {
		for _, n := range w.answered() {
			if n.Dump.Host != nil {
				ask(w, n, &a)
			}
		}
		return a
	})
}

// ofThose asks only if a node answered that says what the question is about.
func ofThose(says func(fleet.Dump) bool, ask func(*World) answer) func(*World) answer {
	return ofNodes(func(w *World) answer {
		if !slices.ContainsFunc(w.answered(), func(n fleet.Node) bool { return says(n.Dump) }) {
			return skipped(noneSays)
		}
		return ask(w)
	})
}

func steeringKnown(d fleet.Dump) bool { return d.Steering != nil }

func networkKnown(d fleet.Dump) bool { return d.Network != nil }

// nowOn is the time by a node's clock.
func (w *World) nowOn(n fleet.Node) time.Time { return w.Now.Add(n.Clock.Offset) }

// noZtunnel reports of a node of Kubernetes whether no ztunnel was found on it.
func (w *World) noZtunnel(node string) bool {
	return w.Cluster != nil && !slices.ContainsFunc(w.Nodes, func(n fleet.Node) bool { return n.Name == node })
}

// containers fails for each pod of a program in which a container is not ready.
func (w *World) containers(app, container string, a answer) answer {
	if w.Cluster == nil {
		return skipped("there is no Kubernetes")
	}
	found := false
	for _, pod := range w.Cluster.Pods {
		ended := pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
		if pod.Labels["app.kubernetes.io/name"] != app || ended {
			continue
		}
		found = true
		i := slices.IndexFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == container })
		switch {
		case i < 0:
			a.fail("pod %s on node %s: its container %s has not begun", pod.Name, pod.Spec.NodeName, container)
		case !pod.Status.ContainerStatuses[i].Ready:
			a.fail("pod %s on node %s: its container %s is not ready", pod.Name, pod.Spec.NodeName, container)
		}
	}
	if !found {
		a.fail("there is no pod of %s", app)
	}
	return a
}

// wanted is a pod that is to be in the mesh.
type wanted struct{ UID, Namespace, Name, Node string }

// intended are those that the first node that answered knows: on nodes that answered, and
// on those without a ztunnel. A pod without an address has not been started.
func (w *World) intended() (all []wanted) {
	asked := map[string]bool{}
	for _, n := range w.answered() {
		asked[n.Dump.Config.NodeName] = true
	}
	for _, p := range w.answered()[0].Dump.Workloads {
		if p.Meshed && !p.Terminated && len(p.Addrs) > 0 && (asked[p.Node] || w.noZtunnel(p.Node)) {
			all = append(all, wanted{p.UID, p.Namespace, p.Name, p.Node})
		}
	}
	return all
}

// release reads the numbers of uname -r.
func release(kernel string) (major, minor int, ok bool) {
	n, _ := fmt.Sscanf(kernel, "%d.%d", &major, &minor)
	return major, minor, n == 2
}

func orUnknown(version string) string {
	if version == "" {
		return "an unknown version"
	}
	return version
}

// few are some names, and how many more.
func few(names []string) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
