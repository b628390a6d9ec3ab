// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/test/env"
)

const repository = "../.."

// block returns the n-th code block of a language in a section of a document.
func block(t *testing.T, document, section, language string, n int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, document))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	rest, _, _ = strings.Cut(rest, "\n## ")
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(rest, -1)
	if !found || n >= len(blocks) {
		t.Fatalf("%s, section %q: %d blocks of %s", document, section, len(blocks), language)
	}
	return blocks[n][1]
}

// machine runs a script of bash as root of a machine that is like a new one:
// network, processes, /run, plugins' state and bpffs are its own.
func machine(t *testing.T, script string) (stdout string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", `
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /var/lib/cni && mount -t tmpfs tmpfs /var/lib/cni
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
trap 'kill $(jobs -p) 2>/dev/null; cat "${dir:-/nowhere}"/*.log >&2 || true' ERR
`+script)
	cmd.Dir = repository
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := env.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, &errs)
	}
	return out.String()
}

// built has `make build` done.
func built(t *testing.T) {
	t.Helper()
	cmd := exec.Command("make", "build")
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v: %s", err, out)
	}
}

// A000-6: the CA on a bare host, by a directory, a trust domain and flags.
func TestAFirstRunByHandIsAsDocumented(t *testing.T) {
	env.Need(t, env.Netns, env.Cgroup2, env.BPF)
	built(t)
	const section = "A first run by hand"
	begin, end := block(t, "docs/running.md", section, "sh", 0), block(t, "docs/running.md", section, "sh", 1)
	out := machine(t, begin+`
# Another node's pods are behind the default route.
ip addr add 192.0.2.1/32 dev lo
python3 -m http.server --bind 192.0.2.1 --directory "$dir/objects" 9090 >"$dir/far.log" 2>&1 &
ip netns exec client curl -sSf --retry 5 --retry-all-errors --retry-delay 1 -o /dev/null http://192.0.2.1:9090/
echo "far: $?"
ip -n client route del default
! ip netns exec client curl -sf -m 5 -o /dev/null http://192.0.2.1:9090/
`+end+`
echo "ended: $(ip netns list | wc -l) namespaces, $(ls /sys/fs/bpf | grep -c culvert || true) pins"
`)
	for _, want := range []string{
		"kind: Namespace", // the answer
		`"src.identity":"spiffe://cluster.local/ns/demo/sa/client"`, `"dst.identity":"spiffe://cluster.local/ns/demo/sa/server"`,
		`"direction":"outbound"`, `"direction":"inbound"`, "far: 0", "ended: 0 namespaces, 0 pins",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

// The chain of first-run.sh is the one that stands in the document.
func TestTheDocumentedConflistIsTheOneThatRuns(t *testing.T) {
	var list struct {
		Name    string           `json:"name"`
		Plugins []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(block(t, "docs/running.md", "culvert-cni: the plugin", "json", 0)), &list); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(repository, "docs", "first-run.sh"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(script), "\nptp='")
	text, _, _ = strings.Cut(text, "'\n")
	var ptp map[string]any
	if err := json.Unmarshal([]byte(text), &ptp); err != nil {
		t.Fatal(err)
	}
	delete(ptp, "cniVersion")
	delete(ptp, "name")
	if diff := cmp.Diff(list.Plugins[0], ptp); diff != "" {
		t.Errorf("the document's first plugin and the script's: %s", diff)
	}
}
