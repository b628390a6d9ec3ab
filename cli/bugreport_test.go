// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

const aToken = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlc2lnbmF0dXJl"

// unpacked are the files of an archive, by their names below its root.
func unpacked(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zip, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for all := tar.NewReader(zip); ; {
		header, err := all.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(all)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		files[name] = string(text)
	}
}

// secrets are what no report may hold, as it was planted and as it is encoded.
func secrets(key string) []string {
	line := strings.Split(key, "\n")[1]
	return []string{line, base64.StdEncoding.EncodeToString([]byte(key))[40:80], strings.Split(aToken, ".")[1], "PRIVATE KEY"}
}

func holdsNoSecret(t *testing.T, files map[string]string, secrets []string) {
	t.Helper()
	for name, text := range files {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %q", name, secret)
			}
		}
	}
}

func TestABugReportOfAClusterHoldsAllButSecrets(t *testing.T) {
	key := string(clitest.Authority("root", nil, clitest.Now, clitest.Now.Add(clitest.Day)).KeyPEM())
	planted := "plain " + key + " encoded " + base64.StdEncoding.EncodeToString([]byte(key)) + "\nAuthorization: Bearer " + aToken + "\nstays\n"
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "of "+r.URL.Path+" "+planted)
	})
	one := clitest.Serve(t, clitest.Ztunnel{Node: "node1", More: map[string]any{"version": "v1.2.3", "planted": planted}, Events: []any{map[string]any{"event": "open", "error": planted}}})
	pages := clitest.Serve(t, page)
	k := &clitest.Kubernetes{Logs: map[string]string{"culvert-system/ztunnel-1": "a log " + planted, "culvert-system/culvert-identity-1": "a log " + planted}}
	k.Pod("culvert-system", "ztunnel-1", "ztunnel", "node1", true, map[string]string{"15000": one, "15020": pages, "15021": pages})
	k.Pod("culvert-system", "ztunnel-2", "ztunnel", "node2", false, nil) // it does not answer
	k.Pod("culvert-system", "culvert-identity-1", "culvert-identity", "node1", true, map[string]string{"15013": pages, "15014": pages})
	k.Put("/api/v1/namespaces/culvert-system/events", corev1.EventList{Items: []corev1.Event{{Message: "pulled the image with " + aToken}}})
	k.Put("/api/v1/namespaces/culvert-system/secrets/culvert-ca", corev1.Secret{Data: map[string][]byte{"root.key": []byte(key)}})
	k.Put("/version", map[string]any{"gitVersion": "v1.37.0"})

	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	to := filepath.Join(t.TempDir(), "report.tar.gz")
	says(t, o.must(2, "bug-report", "--to", to, "--listen", "5s"), to, "things are missing: INDEX.txt in it says which and why")
	files := unpacked(t, to)
	node, ca := "nodes/node1/culvert-system_ztunnel-1/", "ca/culvert-identity-1/"
	for name, want := range map[string]string{
		node + "config_dump.json": `"NodeName":"node1"`, node + "metrics.txt": "of /metrics", node + "ready.txt": "of /healthz/ready", node + "log.txt": "a log", node + "events.jsonl": `"event":"open"`,
		ca + "config_dump.json": "of /config_dump", ca + "metrics.txt": "of /metrics", ca + "log.txt": "a log",
		"status.json": `"verdict": "not ok:`, "check.json": `"checks"`, "versions.json": `"version": "v1.2.3"`,
		"kubernetes/pods.json": `"ztunnel-2"`, "kubernetes/events.json": "pulled the image", "kubernetes/version.json": "v1.37.0",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s does not say %q:\n%.300s", name, want, files[name])
		}
	}
	for _, name := range []string{node + "config_dump.json", node + "log.txt", ca + "metrics.txt", node + "events.jsonl"} {
		if !strings.Contains(files[name], "stays") {
			t.Errorf("%s has lost what is no secret:\n%.300s", name, files[name])
		}
	}
	holdsNoSecret(t, files, secrets(key))
	index := files["INDEX.txt"]
	for _, want := range []string{
		"culvert bug-report of ", "\n" + node + "log.txt: ", "\nnodes/node2/culvert-system_ztunnel-2/config_dump.json: MISSING: ",
		"\nnodes/node2/culvert-system_ztunnel-2/metrics.txt: MISSING: not asked: config_dump.json did not come",
	} {
		if !strings.Contains(index, want) {
			t.Errorf("the index does not say %q:\n%s", want, index)
		}
	}
	says(t, o.must(2, "bug-report", "--to", to), "is there already")
	says(t, o.must(2, "bug-report", "--to", filepath.Join(to, "x")), "--to: ")
}

func TestABugReportOfAMachineIsBoundedInTimeAndSize(t *testing.T) {
	key := string(clitest.Authority("root", nil, clitest.Now, clitest.Now.Add(clitest.Day)).KeyPEM())
	dir := t.TempDir()
	log := filepath.Join(dir, "ztunnel.log")
	if err := os.WriteFile(log, []byte(strings.Repeat("first\n", 2<<20)+key+aToken+"\nlast\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangs := clitest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	var said strings.Builder
	report := func(to string, args ...string) map[string]string {
		to = filepath.Join(dir, to)
		args = append([]string{"culvert", "bug-report", "--to", to, "--log-file", log + "," + filepath.Join(dir, "none"), "--within", "2s"}, args...)
		said.Reset()
		began := time.Now()
		code := Run(t.Context(), Process{Args: args, Stdout: &said, Stderr: &said, Getenv: os.Getenv, Now: func() time.Time { return clitest.Now }})
		if took := time.Since(began); code != 2 || took > time.Minute {
			t.Errorf("exit code %d after %v: %s", code, took, said.String())
		}
		return unpacked(t, to)
	}
	files := report("a.tar.gz", "--ztunnel", hangs)
	var name string
	for file := range files {
		if strings.HasSuffix(file, "ztunnel.log") {
			name = file
		}
	}
	if text := files[name]; !strings.HasSuffix(text, "last\n") || len(text) > maxLog || !strings.HasPrefix(text, "first\n") {
		t.Errorf("%d bytes of the log: %.20q", len(text), text)
	}
	holdsNoSecret(t, files, secrets(key))
	for _, want := range []string{"MISSING: it did not come within 2s (--within)", "none: MISSING: open ", "ztunnel.log: ", ": the end of "} {
		if !strings.Contains(files["INDEX.txt"], want) {
			t.Errorf("the index does not say %q:\n%s", want, files["INDEX.txt"])
		}
	}
	files = report("b.tar.gz", "--ztunnel", hangs, "--max-size", "1")
	if !strings.Contains(files["INDEX.txt"], "the report is full") || len(files[name]) > 1<<20 {
		t.Errorf("%d bytes of the log, index:\n%s", len(files[name]), files["INDEX.txt"])
	}
}

func TestPodsInAReportHaveNoValuesOfVariables(t *testing.T) {
	pods := withoutValues([]corev1.Pod{{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "A", Value: "secret"}}}},
		Containers:     []corev1.Container{{Env: []corev1.EnvVar{{Name: "B", Value: "secret"}, {Name: "C"}}}},
	}}})
	var values []string
	for _, c := range append(pods[0].Spec.InitContainers, pods[0].Spec.Containers...) {
		for _, e := range c.Env {
			values = append(values, e.Name+"="+e.Value)
		}
	}
	if want := []string{"A=(not shown)", "B=(not shown)", "C="}; !slices.Equal(values, want) {
		t.Errorf("%q", values)
	}
}
