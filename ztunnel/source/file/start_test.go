// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// A start finds a file as a killed writer left it, or another is writing.
func TestAtStartAFileMustHaveRested(t *testing.T) {
	look(t, func(r *reader) {
		r.write("shop.yaml", webPod)
		if again := r.look(); again != time.Second || r.last.Version != 0 {
			r.Fatalf("look again in %v, version %d", again, r.last.Version)
		}
		time.Sleep(900 * time.Millisecond)
		r.write("shop.yaml", shop)
		if again := r.look(); again != time.Second || r.last.Version != 0 {
			r.Fatalf("look again in %v, version %d", again, r.last.Version)
		}
		time.Sleep(time.Second)
		if r.look(); r.last.Version != 1 || !r.guarded() {
			r.Errorf("version %d", r.last.Version)
		}
	})
}

func TestWhatHasRestedIsInForceAtTheFirstLook(t *testing.T) {
	for name, c := range map[string]struct {
		files, dir time.Duration
		atOnce     bool
	}{
		"all is old":                {-time.Hour, -time.Hour, true},
		"a file of the future":      {time.Hour, -time.Hour, false},
		"a file was written now":    {-time.Second / 2, -time.Hour, false},
		"a file was put there now":  {-time.Hour, 0, false},
		"a directory of the future": {-time.Hour, time.Hour, false},
	} {
		look(t, func(r *reader) {
			r.write("shop.yaml", shop)
			r.write("other.yaml", "# empty\n")
			at := func(path string, d time.Duration) { r.must(os.Chtimes(path, time.Time{}, time.Now().Add(d))) }
			at(filepath.Join(r.dir, "shop.yaml"), c.files)
			at(filepath.Join(r.dir, "other.yaml"), -time.Hour)
			at(r.dir, c.dir)
			if again := r.look(); (again == 0) != c.atOnce || (r.last.Version == 1) != c.atOnce {
				r.Errorf("%s: version %d, look again in %v", name, r.last.Version, again)
			}
			time.Sleep(time.Second)
			if r.look(); r.last.Version != 1 || !r.guarded() {
				r.Errorf("%s: version %d a second later", name, r.last.Version)
			}
		})
	}
}

// A start does not wait for statuses that change all the time, but for what is asked for.
func TestStatusesDoNotHoldUpAStart(t *testing.T) {
	look(t, func(r *reader) {
		for i := range 5 {
			r.write("shop.yaml", shop+fmt.Sprintf("  message: \"%d\"\n", i))
			r.look()
			time.Sleep(300 * time.Millisecond)
		}
		if r.last.Version == 0 || !r.guarded() {
			r.Errorf("version %d", r.last.Version)
		}
	})
	look(t, func(r *reader) {
		for i := range 5 {
			r.write("shop.yaml", strings.Replace(shop, "app: web\nspec", fmt.Sprintf("app: web\n    v: \"%d\"\nspec", i), 1))
			r.look()
			time.Sleep(300 * time.Millisecond)
		}
		if r.last.Version != 0 {
			r.Error("labels change all the time, and are in force")
		}
	})
}

// Without a former state, what is not understood is what it may be at the worst.
func TestAtStartWhatIsNotUnderstoodIsTheStrictest(t *testing.T) {
	look(t, func(r *reader) {
		r.write("shop.yaml", strings.Replace(shop, "mode: STRICT", "mode: STRIKT", 1))
		r.confirm()
		if !r.guarded() {
			r.Errorf("mode %v", r.mode(80))
		}
		if len(r.errs) != 1 || !strings.Contains(r.errs[0], "PeerAuthentication shop/default: spec.mtls.mode") {
			r.Errorf("errors %q", r.errs)
		}
		r.write("shop.yaml", strings.Replace(shop, "mode: STRICT", "mode: PERMISSIVE", 1))
		if r.look(); !r.guarded() {
			r.Error("what it is to be lets more in, and is in force at once")
		}
		r.confirm()
		if r.mode(80) != policy.Permissive || r.s.Stats().LastError != "" {
			r.Errorf("%v, %+v", r.mode(80), r.s.Stats())
		}
	})
	look(t, func(r *reader) {
		r.write("shop.yaml", strings.Replace(shop, "culvert.dev/mesh: enabled", "culvert.dev/mesh: yes please", 1))
		r.confirm()
		if w := r.web(); !w.Undecided {
			r.Errorf("a namespace whose label means nothing: %+v", w)
		}
	})
	look(t, func(r *reader) {
		r.write("shop.yaml", shop+"---\n{apiVersion: security.istio.io/v1, kind: PeerAuthenticaton, metadata: {name: all, namespace: istio-system}}\n")
		r.look()
		time.Sleep(time.Hour)
		if r.look(); r.last.Version != 0 || len(r.errs) != 1 {
			r.Errorf("version %d, errors %q", r.last.Version, r.errs)
		}
	})
}

// Of a policy that stood twice, the one that is left may be the one that nobody meant.
func TestAPolicyThatStoodTwiceIsBelievedASecondAfterTheOtherIsGone(t *testing.T) {
	for _, gone := range [][]string{{"a.yaml"}, {"b.yaml"}, {"a.yaml", "b.yaml"}} {
		look(t, func(r *reader) {
			r.write("shop.yaml", shopNamespace+"---\n"+webPod)
			for _, file := range []string{"a.yaml", "b.yaml"} {
				r.write(file, strings.Replace(strictApp, "STRICT", "PERMISSIVE", 1))
			}
			r.confirm()
			time.Sleep(time.Minute)
			if r.look(); !r.guarded() {
				r.Fatalf("it stands twice: mode %v", r.mode(80))
			}
			for i, file := range gone {
				time.Sleep(time.Duration(i) * 3 * time.Second / 2)
				r.must(os.Remove(filepath.Join(r.dir, file)))
				if r.look(); !r.guarded() {
					r.Errorf("%v: once %s is gone: mode %v", gone, file, r.mode(80))
				}
			}
			time.Sleep(time.Second)
			if again := r.look(); r.mode(80) != policy.Permissive || again != 0 {
				r.Errorf("%v: a second later: mode %v, look again in %v", gone, r.mode(80), again)
			}
		})
	}
}

// Half of a new policy shuts nobody out; a whole one with a mistake does, whom it selects.
func TestANewPolicyWithAMistakeIsTheStrictestOnceItHasRested(t *testing.T) {
	look(t, func(r *reader) {
		r.write("shop.yaml", shopNamespace+"---\n"+webPod)
		r.confirm()
		r.write("policy.yaml", strings.Replace(strictApp, "STRICT", "PERM", 1))
		if r.look(); r.mode(80) != policy.Permissive {
			r.Error("half of a mode is STRICT")
		}
		r.write("policy.yaml", strings.Replace(strings.Replace(strictApp, "STRICT", "PERM", 1), "app: web", "app: db", 1))
		r.confirm()
		if r.mode(80) != policy.Permissive || len(r.last.Policies.PeerAuthentications) != 1 {
			r.Errorf("it selects another: %v", r.last.Policies)
		}
		r.must(os.Remove(filepath.Join(r.dir, "policy.yaml")))
		r.confirm()
		r.write("policy.yaml", strings.Replace(strictApp, "app: web", "app: db, app: web", 1))
		r.write("other.yaml", strings.NewReplacer("name: default", "name: other", "{app: db}", "", "selector", "selctor").Replace(strictApp))
		r.confirm()
		if !r.guarded() {
			r.Errorf("whom it selects is unknown: %v", r.last.Policies)
		}
	})
}

// A policy that was never understood is a dry run for as long as it says so.
func TestAPolicyThatWasNeverUnderstoodRefusesOnceItIsNoDryRun(t *testing.T) {
	look(t, func(r *reader) {
		const policyText = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {action: PERMIT}
`
		r.write("shop.yaml", shopNamespace+"---\n"+webPod)
		r.write("policy.yaml", policyText)
		r.confirm()
		for _, text := range []string{policyText, strings.Replace(policyText, "true", "false", 1)} {
			r.write("policy.yaml", text)
			r.confirm()
			all := r.last.Policies.AuthorizationPolicies
			if dry := text == policyText; len(all) != 1 || all[0].Action != policy.Refuse || all[0].DryRun != dry {
				r.Errorf("dry run %v: %+v", dry, all)
			}
		}
	})
}

// An object that is wrong is named, keeps its last good state, and holds up no other.
func TestAMistakeConcernsItsObjectOnly(t *testing.T) {
	for name, c := range map[string]struct{ old, with, said string }{
		"a label value":    {"culvert.dev/mesh: enabled", "culvert.dev/mesh: enabeld", `shop.yaml: document 1: Namespace shop: metadata.labels[culvert.dev/mesh]: "enabeld"`},
		"a field":          {"mtls:", "mtsl:", `shop.yaml: document 2: PeerAuthentication shop/default: unknown field "spec.mtsl"`},
		"a pod's field":    {"  labels:\n    app: web\nspec", "  lables:\n    app: web\nspec", `shop.yaml: document 3: Pod shop/web: unknown field "metadata.lables"`},
		"a policy is null": {"    mode: STRICT", "    mode:", `shop.yaml: document 2: PeerAuthentication shop/default: spec.mtls.mode: has no value`},
		"twice":            {strictApp, strictApp + "---\n" + strings.Replace(strictApp, "STRICT", "DISABLE", 1), "PeerAuthentication shop/default: is also in shop.yaml: document 2"},
	} {
		t.Run(name, func(t *testing.T) {
			look(t, func(r *reader) {
				r.begin()
				r.write("shop.yaml", strings.Replace(shop, c.old, c.with, 1)+"---\n"+strings.NewReplacer("web", "db", "u1", "u2", "10.0.0.1", "10.0.0.2").Replace(webPod))
				r.look()
				time.Sleep(time.Minute)
				if r.look(); !r.guarded() || len(r.last.Mesh.Workloads) != 2 {
					r.Errorf("pods %v, %+v", pods(r.last), r.web())
				}
				if st := r.s.Stats(); len(r.errs) != 1 || !strings.Contains(r.errs[0], c.said) || st.LastError != r.errs[0] || st.Failures != 2 {
					r.Errorf("said %q, %+v", r.errs, st)
				}
				r.write("shop.yaml", shop)
				r.confirm()
				if st := r.s.Stats(); !r.guarded() || len(r.last.Mesh.Workloads) != 1 || st.LastError != "" {
					r.Errorf("pods %v, %+v", pods(r.last), st)
				}
			})
		})
	}
}

// Whoever may write one object must not make the mesh believe that nobody knows who is where.
func TestOneObjectThatIsWrongDoesNotMakeTheRestOld(t *testing.T) {
	look(t, func(r *reader) {
		r.begin()
		for _, step := range []struct {
			text string
			old  bool
		}{
			{strings.Replace(shop, "mtls:", "mtsl:", 1), false},
			{shop + "---\nmetadata: [", true}, // it may be any pod
			{shop, false},
		} {
			r.write("shop.yaml", step.text)
			r.look()
			time.Sleep(time.Second)
			r.look()
			if st := r.s.Stats(); st.Old != step.old || (st.LastError == "") != (step.text == shop) {
				r.Errorf("%+v\nof:\n%s", st, step.text)
			}
		}
		r.must(os.Remove(filepath.Join(r.dir, "shop.yaml")))
		if r.look(); !r.s.Stats().Old {
			r.Errorf("without any file: %+v", r.s.Stats())
		}
	})
}
