// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// reader looks at a directory when a test says so, in the test's own time.
type reader struct {
	*testing.T
	dir  string
	s    *Source
	last source.Snapshot
	errs []string
}

func look(t *testing.T, story func(r *reader)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &reader{T: t, dir: t.TempDir()}
		r.s = New(r.dir, Options{
			TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"),
			OnError:     func(err error) { r.errs = append(r.errs, err.Error()) },
		})
		story(r)
	})
}

func (r *reader) write(name, text string) {
	r.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

func (r *reader) must(errs ...error) {
	r.Helper()
	if err := errors.Join(errs...); err != nil {
		r.Fatal(err)
	}
}

func (r *reader) look() time.Duration {
	return r.s.look(func(snap source.Snapshot) { r.last = snap })
}

// confirm lets the second pass after which a look is believed.
func (r *reader) confirm() {
	r.Helper()
	r.look()
	time.Sleep(time.Second)
	if again := r.look(); again != 0 {
		r.Fatalf("a second later something is still to be looked at in %v: %+v", again, r.s.Stats())
	}
}

// web returns the pod that all stories are about.
func (r *reader) web() (w *workload.Packed) {
	r.Helper()
	for _, w := range r.last.Mesh.Workloads {
		if w.Name == "web" {
			return w
		}
	}
	r.Fatalf("the pod is gone; in force are %v", pods(r.last))
	return nil
}

func (r *reader) mode(port uint16) policy.Mode {
	r.Helper()
	set := policy.NewSet()
	set.Replace(r.last.Policies)
	return set.Mode(r.web().Workload(), port)
}

func (r *reader) guarded() bool { return r.web().Meshed && r.mode(80) == policy.Strict }

const (
	shopNamespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels:\n    culvert.dev/mesh: enabled\n"
	strictApp     = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: web\n  mtls:\n    mode: STRICT\n"
	webPod        = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: shop\n  uid: u1\n  labels:\n    app: web\nspec:\n  containers:\n  - name: c\nstatus:\n  podIP: 10.0.0.1\n"
	shop          = shopNamespace + "---\n" + strictApp + "---\n" + webPod
)

func (r *reader) begin() {
	r.Helper()
	r.write("shop.yaml", shop)
	r.confirm()
	if !r.guarded() {
		r.Fatal("the story begins with a pod in the mesh, under STRICT")
	}
}

// A writer may be slow at any byte, and may write the objects in any order.
func TestNoHalfOfAFileLetsAnybodyOut(t *testing.T) {
	for _, whole := range []string{shop, webPod + "---\n" + strictApp + "---\n" + shopNamespace, strictApp + "---\n" + shopNamespace + "---\n" + webPod} {
		look(t, func(r *reader) {
			r.begin()
			for i := range whole {
				r.write("shop.yaml", whole[:i])
				r.look()
				if !r.guarded() {
					r.Fatalf("after %q the pod is %+v, its mode %v", whole[:i], r.web(), r.mode(80))
				}
				time.Sleep(200 * time.Millisecond)
			}
			r.write("shop.yaml", whole)
			r.confirm()
			if !r.guarded() || r.s.Stats().LastError != "" {
				r.Errorf("the whole file: %+v", r.s.Stats())
			}
		})
	}
}

// TestWhatWidensIsBelievedASecondLater has one row per way out of the mesh.
func TestWhatWidensIsBelievedASecondLater(t *testing.T) {
	replace := func(old, with string) func(*reader) {
		if !strings.Contains(shop, old) {
			t.Fatalf("%q is not there", old)
		}
		return func(r *reader) { r.write("shop.yaml", strings.Replace(shop, old, with, 1)) }
	}
	for name, change := range map[string]func(*reader){
		"the policy is gone":           replace(strictApp+"---\n", ""),
		"it is PERMISSIVE":             replace("mode: STRICT", "mode: PERMISSIVE"),
		"it says nothing":              replace("  mtls:\n    mode: STRICT\n", ""),
		"a port is let out":            replace("mode: STRICT", "mode: STRICT\n  portLevelMtls:\n    80:\n      mode: PERMISSIVE"),
		"it selects others":            replace("      app: web\n", "      app: db\n"),
		"the pod is not selected":      replace("    app: web\nspec", "    app: db\nspec"),
		"the pod has no labels":        replace("  labels:\n    app: web\nspec", "spec"),
		"the pod is let out":           replace("    app: web\nspec", "    app: web\n    culvert.dev/mesh: disabled\nspec"),
		"the pod is the node's":        replace("spec:\n  containers", "spec:\n  hostNetwork: true\n  containers"),
		"the pod has a sidecar":        replace("  labels:\n    app: web\nspec", "  annotations: {sidecar.istio.io/status: x}\n  labels:\n    app: web\nspec"),
		"the namespace has no label":   replace("  labels:\n    culvert.dev/mesh: enabled\n", ""),
		"the namespace is let out":     replace("culvert.dev/mesh: enabled", "culvert.dev/mesh: disabled"),
		"an older policy says nothing": replace(strictApp, strictApp+"---\n"+strings.NewReplacer("name: default", "name: a", "  mtls:\n    mode: STRICT\n", "").Replace(strictApp)),
		"the file is another's": func(r *reader) {
			r.must(os.Rename(filepath.Join(r.dir, "shop.yaml"), filepath.Join(r.dir, "shop.yaml~")))
			r.write("shop.yaml", webPod+"---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			look(t, func(r *reader) {
				r.begin()
				before := r.last.Version
				change(r)
				for range 4 {
					if again := r.look(); again <= 0 || again > time.Second || !r.guarded() || r.s.Stats().Held == 0 {
						r.Fatalf("at once: look again in %v, pod %+v, mode %v", again, r.web(), r.mode(80))
					}
					time.Sleep(249 * time.Millisecond)
				}
				if r.look(); !r.guarded() {
					r.Error("before a second has passed")
				}
				time.Sleep(4 * time.Millisecond)
				if again := r.look(); again != 0 || r.guarded() || r.last.Version <= before || r.s.Stats().Held != 0 {
					r.Errorf("after a second: look again in %v, pod %+v, mode %v", again, r.web(), r.mode(80))
				}
			})
		})
	}
}

func TestWhatNarrowsHoldsAtOnce(t *testing.T) {
	const outside = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/mesh: disabled}}}\n---\n" + webPod
	for name, after := range map[string]string{
		"a label of the namespace": strings.Replace(outside, "disabled", "enabled", 1),
		"a label of the pod":       strings.Replace(outside, "    app: web\nspec", "    app: web\n    culvert.dev/mesh: enabled\nspec", 1),
	} {
		t.Run(name, func(t *testing.T) {
			look(t, func(r *reader) {
				r.write("shop.yaml", outside)
				r.confirm()
				if r.web().Meshed {
					r.Fatal("in the mesh")
				}
				r.write("shop.yaml", after)
				if r.look(); !r.web().Meshed {
					r.Error("not in the mesh at once")
				}
				r.write("policy.yaml", strictApp)
				if r.look(); !r.guarded() {
					r.Error("not under STRICT at once")
				}
				r.write("deny.yaml", "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: nobody, namespace: shop}, spec: {}}")
				if again := r.look(); again != 0 || len(r.last.Policies.AuthorizationPolicies) != 1 {
					r.Error("a policy that lets nobody in is not in force at once")
				}
			})
		})
	}
}

// One change of a file narrows and another widens: the first does not wait.
func TestWhatNarrowsDoesNotWaitForWhatWidensBesideIt(t *testing.T) {
	look(t, func(r *reader) {
		r.begin()
		r.write("shop.yaml", shopNamespace+"---\n"+webPod+"---\n"+strings.NewReplacer("web", "db", "u1", "u2", "10.0.0.1", "10.0.0.2").Replace(webPod))
		if r.look(); !r.guarded() || len(r.last.Mesh.Workloads) != 2 {
			r.Errorf("policies %+v, pods %v", r.last.Policies, pods(r.last))
		}
	})
}

// A pod is ready, and ends, whatever its labels wait for.
func TestAStatusDoesNotWait(t *testing.T) {
	look(t, func(r *reader) {
		r.begin()
		r.write("shop.yaml", strings.Replace(strings.Replace(shop, "    app: web\nspec", "    app: db\nspec", 1), "podIP: 10.0.0.1", "podIP: 10.0.0.9\n  phase: Pending", 1))
		if r.look(); !r.guarded() || r.web().Addrs[0].String() != "10.0.0.9" || r.web().Ready {
			r.Errorf("%+v", r.web())
		}
		version := r.last.Version
		if r.look(); r.last.Version != version {
			r.Error("the same once more")
		}
		time.Sleep(time.Second)
		if r.look(); r.guarded() || r.web().Addrs[0].String() != "10.0.0.9" {
			r.Errorf("a second later: %+v", r.web())
		}
	})
}

// halfPod is a pod whose text goes on for long after its containers.
const halfPod = `apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  uid: u1
  labels:
    app: web
spec:
  containers:
  - name: c
    ports:
    - containerPort: 80
      hostPort: 8080
  - name: d
    ports:
    - containerPort: 81
      hostPort: 8081
  nodeName: node-1
  serviceAccountName: web
status:
  hostIP: 192.0.2.1
  hostIPs:
  - ip: 192.0.2.1
  - ip: 2001:db8::1
  podIP: 10.0.0.1
  podIPs:
  - ip: 10.0.0.1
  - ip: fd00::1
`

// What half a file says of a status is taken back when its writer goes on.
func TestAStatusThatWasShownGoesBackWithItsText(t *testing.T) {
	waiting := strings.NewReplacer("    app: web\nspec", "    app: db\nspec", "podIP: 10.0.0.1", "podIP: 10.0.0.9\n  phase: Pending").Replace(shop)
	for name, after := range map[string]string{
		"the former text":       shop,
		"the pod has a mistake": strings.Replace(shop, "  labels:\n    app: web\nspec", "  lables:\n    app: web\nspec", 1),
		"the pod stands twice":  shop + "---\n" + webPod,
		"nothing can be read":   shopNamespace + "---\n" + strictApp + "---\nmetadata: [\n",
	} {
		look(t, func(r *reader) {
			r.begin()
			r.write("shop.yaml", waiting)
			if r.look(); r.web().Addrs[0].String() != "10.0.0.9" || r.web().Ready {
				r.Fatalf("%s: the status waits: %+v", name, r.web())
			}
			time.Sleep(time.Second / 2)
			r.write("shop.yaml", after)
			if r.look(); r.web().Addrs[0].String() != "10.0.0.1" || !r.web().Ready || !r.guarded() {
				r.Errorf("%s: %+v", name, r.web())
			}
		})
	}
	look(t, func(r *reader) {
		r.write("shop.yaml", shopNamespace+"---\n"+strictApp)
		r.write("web.yaml", halfPod)
		r.confirm()
		for i := range halfPod {
			r.write("web.yaml", halfPod[:i])
			r.look()
			time.Sleep(200 * time.Millisecond)
		}
		r.write("web.yaml", halfPod)
		if again := r.look(); again != 0 || !r.guarded() || len(r.web().Addrs) != 2 || r.web().ServiceAccount != "web" {
			r.Errorf("written once more: %+v, look again in %v", r.web(), again)
		}
	})
}

// An address or a node's port that is nobody's would be the world outside: half a pod
// lacks some, and so does half of a status alone.
func TestHalfAPodTakesNoAddressAway(t *testing.T) {
	for _, from := range []string{"apiVersion", "status"} {
		look(t, func(r *reader) {
			r.write("shop.yaml", shopNamespace+"---\n"+strictApp)
			r.write("web.yaml", halfPod)
			r.confirm()
			want := fmt.Sprint(r.web().Workload().Addrs, r.web().Workload().HostPorts, r.last.Mesh.Nodes)
			for i := strings.Index(halfPod, from) + 1; i < len(halfPod); i++ {
				r.write("web.yaml", halfPod[:i])
				r.look()
				if w := r.web().Workload(); fmt.Sprint(w.Addrs, w.HostPorts, r.last.Mesh.Nodes) != want {
					r.Fatalf("after %q: addresses %v, ports %v, nodes %v; not %s", halfPod[:i], w.Addrs, w.HostPorts, r.last.Mesh.Nodes, want)
				}
				time.Sleep(200 * time.Millisecond)
			}
			r.write("web.yaml", strings.Replace(halfPod, "  - ip: fd00::1\n", "", 1))
			if r.look(); len(r.web().Addrs) != 2 {
				r.Errorf("at once: %v", r.web().Addrs)
			}
			if r.confirm(); len(r.web().Addrs) != 1 {
				r.Errorf("a second later: %v", r.web().Addrs)
			}
		})
	}
}

// What an identity hangs on stands behind the containers: a pod that is enrolled before its
// writer comes there would keep another identity.
func TestHalfANewPodIsNotInForce(t *testing.T) {
	for name, before := range map[string]string{
		"new":          "# nothing yet\n",
		"of a new UID": strings.NewReplacer("u1", "u0", "10.0.0.1", "10.0.0.7", "fd00::1", "fd00::7").Replace(halfPod) + "  phase: Pending\n",
	} {
		look(t, func(r *reader) {
			r.write("shop.yaml", shopNamespace)
			r.write("web.yaml", before)
			r.confirm()
			for i := range halfPod {
				r.write("web.yaml", halfPod[:i])
				r.look()
				for _, w := range r.last.Mesh.Workloads {
					if w.Workload().UID == "u1" && (w.ServiceAccount != "web" || w.Node != "node-1") {
						r.Fatalf("%s: after %q: ServiceAccount %s, node %q", name, halfPod[:i], w.ServiceAccount, w.Node)
					}
					if w.Workload().UID == "u0" && (w.Addrs[0].String() != "10.0.0.7" || w.Ready) {
						r.Fatalf("%s: after %q: the former one has %v, and ready is %v", name, halfPod[:i], w.Addrs, w.Ready)
					}
				}
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
	look(t, func(r *reader) {
		r.begin()
		whole, _, _ := strings.Cut(strings.NewReplacer("name: web", "name: db", "u1", "u2").Replace(halfPod), "status")
		r.write("db.yaml", whole)
		if again := r.look(); len(r.last.Mesh.Workloads) != 1 || again != time.Second {
			r.Errorf("a pod without a status: %v, look again in %v", pods(r.last), again)
		}
		if r.confirm(); len(r.last.Mesh.Workloads) != 2 {
			r.Errorf("a second later: %v", pods(r.last))
		}
		r.write("db.yaml", strings.NewReplacer("u2", "u3").Replace(whole)+"status:\n")
		if again := r.look(); again != 0 || !slices.ContainsFunc(r.last.Mesh.Workloads, func(w *workload.Packed) bool { return w.UID == "u3" }) {
			r.Errorf("one with a status: %v, look again in %v", pods(r.last), again)
		}
	})
}

// In a large cluster statuses change all the time.
func TestStatusesHoldUpNothing(t *testing.T) {
	const others = `apiVersion: v1
kind: Node
metadata: {name: node-1, resourceVersion: "%[1]d", annotations: {a: "%[1]d"}}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}], conditions: [{type: Ready, status: "True", message: "%[1]d"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: u2, generation: %[1]d, resourceVersion: "%[1]d", managedFields: [{manager: "%[1]d"}]}
spec: {containers: [{name: c}]}
status: {podIP: 10.0.0.2, message: "%[1]d"}
---
`
	look(t, func(r *reader) {
		r.write("shop.yaml", fmt.Sprintf(others, 0)+shop)
		r.confirm()
		for i := range 6 {
			r.write("shop.yaml", fmt.Sprintf(others, i+1)+strings.Replace(shop, "    app: web\nspec", "    app: db\nspec", 1))
			if r.look(); r.guarded() != (i < 4) {
				r.Errorf("%v later: guarded is %v", time.Duration(i)*300*time.Millisecond, r.guarded())
			}
			time.Sleep(300 * time.Millisecond)
		}
	})
}

// A dump of a large cluster is written for seconds, and says less until it is whole.
func TestAFileThatIsWrittenForLongTakesNothingAway(t *testing.T) {
	look(t, func(r *reader) {
		r.begin()
		text := webPod
		for i := range 20 {
			text += fmt.Sprintf("# %d\n", i)
			r.write("shop.yaml", text)
			if r.look(); !r.guarded() {
				r.Fatalf("after %v", time.Duration(i)*900*time.Millisecond)
			}
			time.Sleep(900 * time.Millisecond)
		}
		r.write("shop.yaml", text+"---\n"+shopNamespace+"---\n"+strictApp)
		if again := r.look(); again != 0 || !r.guarded() {
			r.Errorf("whole: look again in %v", again)
		}
	})
}

// What cannot be read may be what seems to be missing.
func TestNothingIsDeletedWhileAFileCannotBeRead(t *testing.T) {
	look(t, func(r *reader) {
		r.begin()
		r.write("policy.yaml", "kind: PeerAuthentication\nmetadata: [\n")
		r.write("shop.yaml", shopNamespace+"---\n"+webPod)
		for range 5 {
			if r.look(); !r.guarded() {
				r.Fatal("the policy moves to another file, which is not whole yet")
			}
			time.Sleep(time.Second)
		}
		if len(r.errs) != 1 || !strings.HasPrefix(r.errs[0], "policy.yaml: document 1: yaml: line ") {
			r.Errorf("errors %q", r.errs)
		}
		r.write("policy.yaml", strictApp)
		if again := r.look(); again != 0 || !r.guarded() {
			r.Errorf("look again in %v", again)
		}
	})
}

func TestADirectoryThatIsAwayOrEmptyDeletesNothing(t *testing.T) {
	look(t, func(r *reader) {
		r.begin()
		r.must(os.Rename(r.dir, r.dir+".away"))
		r.look()
		r.must(os.Mkdir(r.dir, 0o700)) // a mount point without its mount
		for range 3 {
			r.look()
			time.Sleep(time.Second)
		}
		if !r.guarded() || len(r.errs) != 2 || !strings.Contains(r.errs[1], "no file is left") {
			r.Errorf("errors %q", r.errs)
		}
		r.must(os.Remove(r.dir), os.Rename(r.dir+".away", r.dir))
		if r.look(); !r.guarded() || r.s.Stats().LastError != "" {
			r.Errorf("%+v", r.s.Stats())
		}
		r.write("shop.yaml", "# nothing is left\n")
		r.confirm()
		if len(r.last.Mesh.Workloads) != 0 {
			r.Error("a file without objects deletes nothing")
		}
	})
}

// Two pods cannot have one address, or one name.
func TestAPodThatIsReplacedGoesAtOnce(t *testing.T) {
	for name, next := range map[string]string{
		"address": strings.NewReplacer("name: web\n", "name: new\n", "u1", "u2").Replace(webPod),
		"name":    strings.NewReplacer("u1", "u2", "10.0.0.1", "10.0.0.2").Replace(webPod),
	} {
		look(t, func(r *reader) {
			r.begin()
			r.write("shop.yaml", shopNamespace+"---\n"+strictApp+"---\n"+next)
			if again := r.look(); again != 0 || len(r.last.Mesh.Workloads) != 1 || r.last.Mesh.Workloads[0].UID != "u2" {
				r.Errorf("another pod of this %s: %v, look again in %v", name, pods(r.last), again)
			}
		})
	}
}

// A dead pod must not keep the address of one that lives, whatever else cannot be read.
func TestAPodWhoseAddressIsTakenGoesAlsoWhileAFileCannotBeRead(t *testing.T) {
	look(t, func(r *reader) {
		r.write("db.yaml", strings.NewReplacer("web", "db", "u1", "u2", "10.0.0.1", "10.0.0.2").Replace(webPod))
		r.begin()
		r.write("other.yaml", "metadata: [\n")
		r.must(os.Remove(filepath.Join(r.dir, "db.yaml")))
		r.write("shop.yaml", shopNamespace+"---\n"+strictApp+"---\n"+strings.NewReplacer("name: web\n", "name: new\n", "u1", "u3").Replace(webPod))
		if r.look(); !slices.Equal(pods(r.last), []string{"db", "new"}) {
			r.Errorf("at once: %v", pods(r.last))
		}
		time.Sleep(time.Minute)
		if r.look(); !slices.Equal(pods(r.last), []string{"db", "new"}) {
			r.Errorf("later: %v", pods(r.last))
		}
	})
}

// Of pods that take each other's UIDs, none keeps one that another has by now.
func TestPodsExchangeTheirUIDs(t *testing.T) {
	pod := func(n, uid int, status string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: web-%d, namespace: shop, uid: u%d}\nspec: {containers: [{name: c}]}\n%s---\n", n, uid, status)
	}
	const whole, open = "status: {phase: Running}\n", ""
	for _, c := range []struct {
		name, next   string
		atOnce, then string
	}{
		{"two", pod(1, 2, whole) + pod(2, 1, whole) + pod(3, 3, whole), "213", "213"},
		{"three", pod(1, 2, whole) + pod(2, 3, whole) + pod(3, 1, whole), "231", "231"},
		{"one after the other", pod(1, 2, whole) + pod(2, 3, whole) + pod(3, 4, whole), "234", "234"},
		{"one of which may go on", pod(1, 2, whole) + pod(2, 1, open) + pod(3, 3, whole), "123", "213"},
		{"both of which may go on", pod(1, 2, open) + pod(2, 1, open) + pod(3, 3, whole), "123", "213"},
		{"one of which is gone", pod(1, 2, whole) + pod(2, 3, whole), "123", "23"},
		{"one of which has a mistake", pod(1, 2, whole) + pod(2, 1, "statos: {}\n") + pod(3, 3, whole), "123", "123"},
	} {
		look(t, func(r *reader) {
			in := func() (uids string) {
				for _, name := range pods(r.last) {
					for _, w := range r.last.Mesh.Workloads {
						if w.Name == name {
							uids += strings.TrimPrefix(w.UID, "u")
						}
					}
				}
				return uids
			}
			r.write("shop.yaml", shopNamespace+"---\n"+pod(1, 1, whole)+pod(2, 2, whole)+pod(3, 3, whole))
			r.confirm()
			r.write("shop.yaml", shopNamespace+"---\n"+c.next)
			if r.look(); in() != c.atOnce {
				r.Errorf("%s: at once UIDs %s", c.name, in())
			}
			time.Sleep(time.Second)
			r.look()
			time.Sleep(time.Second)
			if r.look(); in() != c.then {
				r.Errorf("%s: later UIDs %s", c.name, in())
			}
		})
	}
}

// Half of a pod may lack its namespace; it is not another one for that.
func TestAPodThatIsRenamedIsNoNewOne(t *testing.T) {
	look(t, func(r *reader) {
		r.begin()
		r.write("shop.yaml", shopNamespace+"---\n"+strictApp+"---\n"+strings.Replace(webPod, "  namespace: shop\n", "", 1))
		if r.look(); !r.guarded() || len(r.last.Mesh.Workloads) != 1 || r.web().Namespace != "shop" {
			r.Errorf("at once: %+v", r.web())
		}
		time.Sleep(time.Second)
		if again := r.look(); again != 0 || len(r.last.Mesh.Workloads) != 1 || r.web().Namespace != "default" {
			r.Errorf("a second later: %+v, look again in %v", r.web(), again)
		}
	})
}
