// SPDX-License-Identifier: Apache-2.0

package check

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

type nodeOf = fleet.Node

// holds reports whether a node holds what was served: its leaf, or one that came since.
func holds(n fleet.Node, s Served) bool {
	for _, h := range n.Dump.Certificates {
		if leaf := h.Leaf(); h.Identity == s.Identity && leaf != nil {
			return leaf.Equal(s.Leaf) || s.Leaf.NotBefore.After(leaf.NotBefore) && slices.Equal(s.Leaf.RawIssuer, leaf.RawIssuer)
		}
	}
	return false
}

var servingRules = []rule{
	{"ca-answers", CategoryServing, "the CA answers by TLS",
		"See the pods of culvert-identity and their log; or give --ca.", func(w *World) (a answer) {
			if len(w.CAs) == 0 {
				a.fail("no replica was found")
			}
			for _, ca := range w.CAs {
				if ca.Problem != "" {
					a.fail("%s: %s", ca.Name, ca.Problem)
				}
			}
			return a
		}},
	{"ca-ready", CategoryServing, "every replica of the CA is ready",
		"Each target says what it waits for; docs/observability.md explains them.", func(w *World) (a answer) {
			known := false
			for _, ca := range w.CAs {
				if ca.State == nil {
					continue
				}
				known = true
				for _, target := range ca.State.Readiness {
					if !target.Ready {
						a.fail("%s: %s: %s", ca.Name, target.Name, target.Problem)
					}
				}
			}
			if !known {
				return skipped("no replica shows its state")
			}
			return a
		}},
	{"ca-certificate", CategoryServing, "the CA's own certificate is valid and not overdue",
		"The CA renews it by itself at half its life: see its log.", ofReplicas(func(w *World) (a answer) {
			for _, ca := range w.CAs {
				leaf := ca.Leaf()
				if leaf == nil {
					continue
				}
				life, left := leaf.NotAfter.Sub(leaf.NotBefore), leaf.NotAfter.Sub(w.Now)
				switch {
				case left <= 0:
					a.fail("%s: expired at %s", ca.Name, stamp(leaf.NotAfter))
				case w.Now.Before(leaf.NotBefore):
					a.fail("%s: not valid before %s", ca.Name, stamp(leaf.NotBefore))
				case left < life/4:
					a.warn("%s: %s left of %s", ca.Name, long(left), long(life))
				}
			}
			return a
		})},
	{"ca-certificate-trusted", CategoryServing, "every node trusts the CA's own certificate",
		"The node has another root than the CA: culvert bundle show --where.", ofReplicas(ofNodes(func(w *World) (a answer) {
			for _, ca := range w.CAs {
				if leaf := ca.Leaf(); leaf != nil {
					for _, n := range w.answered() {
						if roots := trusted(n); roots != nil && !under(leaf, ca.Chain, roots) {
							a.fail("node %s has no root of what %s presents", n.Name, ca.Name)
						}
					}
				}
			}
			return a
		}))},
	{"ca-certificate-name", CategoryServing, "the CA's own certificate names the service that nodes ask",
		"-dns-name of the CA, and -ca-server-name of ztunnel, must be one name.", ofReplicas(func(w *World) (a answer) {
			if w.Cluster == nil {
				return skipped("there is no Kubernetes")
			}
			for _, ca := range w.CAs {
				leaf := ca.Leaf()
				if leaf == nil {
					continue
				}
				if want := "culvert-identity." + w.Cluster.Namespace + ".svc"; !slices.Contains(leaf.DNSNames, want) {
					a.fail("%s presents %s, nodes ask for %s", ca.Name, strings.Join(leaf.DNSNames, ", "), want)
				}
			}
			return a
		})},
}

var tokenRules = []rule{
	{"token-audience", CategoryToken, "ztunnels have a projected token for the CA's audience",
		"Install ztunnel by the chart: the volume token projects a ServiceAccount token for culvert-identity.", func(w *World) (a answer) {
			if w.Cluster == nil {
				return skipped("there is no Kubernetes")
			}
			for _, pod := range w.Cluster.Pods {
				if pod.Labels["app.kubernetes.io/name"] == "ztunnel" && !projects(pod, "culvert-identity") {
					a.fail("pod %s has no token for the audience culvert-identity", pod.Name)
				}
			}
			return a
		}},
}

func projects(pod corev1.Pod, audience string) bool {
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ServiceAccountToken != nil && source.ServiceAccountToken.Audience == audience {
				return true
			}
		}
	}
	return false
}

// Clocks that differ by more than this are told of: a leaf is backdated by a minute at
// most.
const (
	clockWarn = 5 * time.Second
	clockFail = time.Minute
)

var clockRules = []rule{
	{"clocks", CategoryClock, "the clocks of nodes and CA agree with this machine's",
		"Synchronize the clock of the machine that is named (chronyd, systemd-timesyncd); if all are named, this machine's.", ofNodes(func(w *World) (a answer) {
			compare := func(who string, c fleet.Clock) {
				switch off := c.Skewed(); {
				case off.Abs() >= clockFail:
					a.fail("%s is %s off, to within %s", who, c.Offset.Round(time.Second), c.Within.Round(time.Millisecond))
				case off.Abs() >= clockWarn:
					a.warn("%s is %s off, to within %s", who, c.Offset.Round(time.Second), c.Within.Round(time.Millisecond))
				}
			}
			for _, n := range w.answered() {
				compare("node "+n.Name, n.Clock)
			}
			for _, ca := range w.CAs {
				compare("the CA "+ca.Name, ca.Clock)
			}
			return a
		})},
}

var haRules = []rule{
	{"ca-replicas", CategoryHA, "two replicas of the CA are ready",
		"identity.replicas of the chart; see the pods of culvert-identity.", func(w *World) (a answer) {
			if w.Cluster == nil {
				return skipped("there is no Kubernetes")
			}
			ready := 0
			for _, ca := range w.CAs {
				if ca.Ready {
					ready++
				}
			}
			switch ready {
			case 0:
				a.fail("none of %d is ready", len(w.CAs))
			case 1:
				a.warn("one of %d is ready: nothing may happen to it", len(w.CAs))
			}
			return a
		}},
	{"ca-spread", CategoryHA, "replicas of the CA are on different nodes",
		"Delete one of the pods, if there is another node for it.", func(w *World) (a answer) {
			if w.Cluster == nil {
				return skipped("there is no Kubernetes")
			}
			on := map[string]int{}
			for _, pod := range w.Cluster.Pods {
				if pod.Labels["app.kubernetes.io/name"] == "culvert-identity" {
					on[pod.Spec.NodeName]++
				}
			}
			for node, n := range on {
				if n > 1 && len(on) == 1 {
					a.warn("all %d are on %s", n, node)
				}
			}
			return a
		}},
}

// The chart has ValidatingAdmissionPolicies of v1.
const leastMinor = 30

var preRules = []rule{
	{"kubernetes-version", CategoryPre, "the API server is new enough",
		"Culvert needs Kubernetes 1.30.", func(w *World) (a answer) {
			if w.Cluster == nil || w.Cluster.Version == "" {
				return skipped("the API server's version is not known")
			}
			parts := strings.Split(strings.TrimPrefix(w.Cluster.Version, "v"), ".")
			if len(parts) < 2 {
				return skipped("%q is no version", w.Cluster.Version)
			}
			major, _ := strconv.Atoi(parts[0])
			minor, _ := strconv.Atoi(strings.TrimRight(parts[1], "+"))
			if major == 1 && minor < leastMinor {
				a.fail("it is %s", w.Cluster.Version)
			}
			return a
		}},
	{"other-meshes", CategoryPre, "nothing else stands between the cluster's pods",
		"docs/kubernetes.md says what goes together; pods belong to one mesh.", func(w *World) (a answer) {
			switch {
			case w.Cluster == nil:
				return skipped("there is no Kubernetes")
			case w.Cluster.Problem != "":
				return skipped("%s", w.Cluster.Problem)
			}
			for _, f := range w.Cluster.Foreign {
				if f.Breaks {
					a.fail("%s: %s; change %s", f.What, f.Why, f.Object)
				} else {
					a.warn("%s: %s", f.What, f.Why)
				}
			}
			return a
		}},
	{"install-rights", CategoryPre, "the caller may create what an installation needs",
		"Ask an administrator of the cluster, or install as one.", func(w *World) (a answer) {
			if w.Cluster == nil || w.Cluster.Rights == nil {
				return skipped("not asked for: --pre")
			}
			for _, right := range w.Cluster.Rights {
				switch {
				case right.Problem != "":
					a.fail("%s: %s", right.What, right.Problem)
				case !right.Allowed:
					a.fail("may not %s", right.What)
				}
			}
			return a
		}},
}
