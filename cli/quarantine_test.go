// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/identity/deny"
)

// operator runs command lines against a Kubernetes.
type operator struct {
	*testing.T
	kubeconfig string
}

func (o operator) run(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Run(context.Background(), Process{
		Args: append([]string{"culvert"}, append(args, "--kubeconfig", o.kubeconfig)...), Stdout: &out, Stderr: &err,
		Getenv: func(string) string { return "" }, Now: func() time.Time { return clitest.Now },
	})
	return code, out.String(), err.String()
}

// must runs a command line that ends with code, and returns all that it said.
func (o operator) must(want int, args ...string) string {
	o.Helper()
	code, stdout, stderr := o.run(args...)
	if code != want {
		o.Fatalf("culvert %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, stdout, stderr)
	}
	return stdout + stderr
}

const (
	denyPath  = "/api/v1/namespaces/culvert-system/configmaps/culvert-deny"
	rootsPath = "/api/v1/namespaces/culvert-system/configmaps/culvert-root"
)

func put(k *clitest.Kubernetes, at string, data, annotations map[string]string) {
	k.Put(at, corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "culvert-system", Name: path.Base(at), Annotations: annotations}, Data: data,
	})
}

// set is the deny set as the CA would read it; all other keys of the ConfigMap are kept.
func set(t *testing.T, k *clitest.Kubernetes, at string) string {
	t.Helper()
	text, err := json.Marshal(k.Get(at))
	var found corev1.ConfigMap
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil {
		t.Fatal(err)
	}
	entries, err := deny.Parse([]byte(found.Data[deny.Key]))
	if err != nil {
		t.Fatalf("%s: %v", found.Data, err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.String())
	}
	return strings.Join(all, ", ")
}

func says(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
}

func TestANodeIsQuarantinedInTheConfigMapThatTheCAReads(t *testing.T) {
	k := &clitest.Kubernetes{}
	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	put(k, rootsPath, nil, nil)
	says(t, o.must(0, "node", "quarantine", "node-7", "--reason", "stolen", "--dry-run"),
		"would be written: node node-7: stolen", "kubectl -n culvert-system create configmap culvert-deny --from-file=deny.yaml=/dev/stdin", "\n- node: node-7\n")
	if k.Get(denyPath) != nil {
		t.Error("a dry run wrote")
	}
	says(t, o.must(0, "node", "quarantine", "node-7", "--reason", "stolen"),
		"node node-7: stolen\n", "written to ConfigMap culvert-system/culvert-deny; culvert-identity reads it within seconds", "what it holds is not known")
	if got := set(t, k, denyPath); got != "node node-7: stolen" {
		t.Error(got)
	}
	says(t, o.must(0, "node", "quarantine", "node-7", "--reason", "stolen"), "node-7 is in ConfigMap culvert-system/culvert-deny already")
	o.must(0, "node", "quarantine", "node-8", "--for", "1h")
	says(t, o.must(0, "node", "release", "node-7", "--dry-run"), "would be written: no more in the deny set: node node-7")
	if got := set(t, k, denyPath); got != "node node-7: stolen, node node-8, until 2026-11-29T13:00:00Z" {
		t.Error(got)
	}
	says(t, o.must(0, "node", "release", "node-7"), "no more in the deny set: node node-7")
	says(t, o.must(2, "node", "release", "node-7"), "node-7 is not denied in ConfigMap culvert-system/culvert-deny")
	if got := set(t, k, denyPath); got != "node node-8, until 2026-11-29T13:00:00Z" {
		t.Error(got)
	}

	k.Pod("culvert-system", "ca-1", "culvert-identity", "node1", true, nil, "-deny-configmap=culvert-system/other")
	says(t, o.must(0, "node", "quarantine", "node-9"), "written to ConfigMap culvert-system/other")
}

func TestADenySetIsNotMadeWhereOneMayHaveBeenLost(t *testing.T) {
	k := &clitest.Kubernetes{}
	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	says(t, o.must(2, "node", "quarantine", "node-7"), "there is no ConfigMap culvert-system/culvert-deny, and no CA publishes its root in namespace culvert-system", "--namespace")
	put(k, rootsPath, nil, map[string]string{"culvert.dev/had-configmap": "culvert-system/culvert-deny"})
	says(t, o.must(2, "node", "quarantine", "node-7"), "ConfigMap culvert-system/culvert-deny is gone, and the CA remembers it")
	if k.Get(denyPath) != nil {
		t.Error("it was written")
	}
	o.must(0, "node", "quarantine", "node-7", "--create")
	if got := set(t, k, denyPath); got != "node node-7" {
		t.Error(got)
	}

	put(k, denyPath, map[string]string{"deny.yaml": "- nodes: x"}, nil)
	says(t, o.must(2, "node", "quarantine", "node-7"), "ConfigMap culvert-system/culvert-deny: not a list of entries", "nodes")
	put(k, denyPath, map[string]string{"deny.yaml": ""}, nil)
	says(t, o.must(2, "node", "quarantine", "node-7"), "empty: a set that denies nothing is []")
	put(k, denyPath, map[string]string{"deny.yaml": "[]", "notes": "keep"}, map[string]string{"by": "hand"})
	o.must(0, "node", "quarantine", "node-7")
	text, _ := json.Marshal(k.Get(denyPath))
	says(t, string(text), `"notes":"keep"`, `"by":"hand"`)
}

// another is an API server at which another hand writes just before the next writes.
type another struct {
	*clitest.Kubernetes
	writes atomic.Int32 // still to come
	puts   atomic.Int32
}

func (a *another) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		a.puts.Add(1)
		if a.writes.Add(-1) >= 0 {
			put(a.Kubernetes, denyPath, map[string]string{"deny.yaml": "- node: theirs"}, nil)
		}
	}
	a.Kubernetes.ServeHTTP(w, r)
}

func TestWhatAnotherHandDeniesMeanwhileIsKept(t *testing.T) {
	k := &clitest.Kubernetes{}
	put(k, denyPath, map[string]string{"deny.yaml": "[]"}, nil)
	a := &another{Kubernetes: k}
	o := operator{t, clitest.Kubeconfig(t, a, t.TempDir())}
	a.writes.Store(2)
	o.must(0, "node", "quarantine", "ours")
	if got := set(t, k, denyPath); got != "node theirs, node ours" || a.puts.Load() != 3 {
		t.Errorf("%s, after %d writes", got, a.puts.Load())
	}
	a.writes.Store(100)
	says(t, o.must(2, "node", "quarantine", "more"), "ConfigMap culvert-system/culvert-deny: it was changed by another hand meanwhile, 5 times")
}
