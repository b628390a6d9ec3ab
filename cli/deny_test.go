// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/identity/deny"
)

const someKey = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestWhatIsDeniedIsWrittenShownAndLiftedInTheConfigMap(t *testing.T) {
	k := &clitest.Kubernetes{}
	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	put(k, rootsPath, nil, nil)
	says(t, o.must(0, "denied"), "nothing is denied in ConfigMap culvert-system/culvert-deny")
	says(t, o.must(0, "deny", webID, "--for", "24h", "--reason", "stolen"),
		"id "+webID+", until 2026-11-30T12:00:00Z: stolen\n", "written to ConfigMap culvert-system/culvert-deny")
	o.must(0, "deny", "--serial", "00:4F:1d:02")
	o.must(0, "deny", "--spki", strings.ToUpper(someKey))
	o.must(0, "deny", "--issuer", "ab:cd")
	o.must(0, "deny", "--node", "node-7")
	want := "id " + webID + ", until 2026-11-30T12:00:00Z: stolen, serial 4f1d02, spki " + someKey + ", issuer abcd, node node-7"
	if got := set(t, k, denyPath); got != want {
		t.Error(got)
	}
	says(t, o.must(0, "deny", "--serial", "4f1d02"), "serial 4f1d02 is in ConfigMap culvert-system/culvert-deny already")
	says(t, o.must(0, "denied"), "KIND", "id       "+webID, "2026-11-30T12:00:00Z   stolen", "for ever")
	says(t, o.must(0, "denied", "-o", "json"), `"kind": "serial"`, `"value": "4f1d02"`, `"inForce": true`)

	o.must(0, "deny", webID) // another reason and end, and no second entry
	o.must(0, "allow", "--serial", "4F:1D:02")
	o.must(0, "allow", "--spki", someKey)
	says(t, o.must(0, "allow", "--issuer", "abcd", "--dry-run"), "would be written: no more in the deny set: issuer abcd")
	o.must(0, "allow", "--issuer", "abcd")
	if got := set(t, k, denyPath); got != "node node-7, id "+webID {
		t.Error(got)
	}
	says(t, o.must(2, "allow", "--issuer", "abcd"), "issuer abcd is not denied in ConfigMap culvert-system/culvert-deny")

	put(k, denyPath, map[string]string{"deny.yaml": "- {node: node-1, until: '2026-11-29T11:59:59Z'}"}, nil)
	says(t, o.must(0, "denied"), "2026-11-29T11:59:59Z, ended")
}

// What would deny nobody, or somebody else, is not written.
func TestADenialThatIsWrongIsRefused(t *testing.T) {
	k := &clitest.Kubernetes{}
	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	put(k, rootsPath, nil, nil)
	k.Pod("culvert-system", "ca-1", "culvert-identity", "node1", true, nil, "-trust-domain=example.org")
	for line, want := range map[string]string{
		"":                         "want exactly one of a SPIFFE ID, --serial, --spki, --issuer and --node",
		webID + " --node n":        "want exactly one",
		"shop/web":                 `id: "shop/web"`,
		"spiffe://example.org/web": "id: ",
		"spiffe://a.b/ns/s/sa/w --trust-domain A/B": `--trust-domain "A/B"`,
		"--serial xyz":        `serial: "xyz": want hexadecimal digits`,
		"--serial 0":          "serial: 0 is no serial number",
		"--spki abcd":         "spki: ",
		"--node a/b":          `node: "a/b" is no name of a node`,
		"--node n --for 5":    "5 has no unit",
		"--node n --for -1h":  "want more than nothing",
		"--node n --for soon": "want a duration",
		"a b":                 "accepts at most 1 arg",
	} {
		says(t, o.must(2, append([]string{"deny"}, strings.Fields(line)...)...), want)
	}
	says(t, o.must(2, "deny", "--node", "n", "--reason", strings.Repeat("r", deny.MaxReason+1)), "reason: longer than 256 bytes")
	if k.Get(denyPath) != nil {
		t.Error("it was written")
	}
	o.must(0, "deny", "spiffe://example.org/ns/shop/sa/web")
	const note = "is of the trust domain cluster.local, and the mesh of example.org: it names a peer only if the CA is federated"
	says(t, o.must(0, "deny", webID), note) // it may be
	says(t, o.must(0, "allow", webID), note)
	if code, _, stderr := o.run("deny", webID, "--trust-domain", "cluster.local"); code != 0 || strings.Contains(stderr, note) {
		t.Errorf("of the mesh's own: %d, %s", code, stderr)
	}
}

// Two operators who deny at once both deny.
func TestOperatorsDoNotLoseEachOthersDenials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deny.yaml")
	if err := os.WriteFile(file, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := operator{t, clitest.Kubeconfig(t, &clitest.Kubernetes{}, t.TempDir())}
	names := strings.Fields("a b c d")
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() {
			if code, stdout, stderr := o.run("deny", "--node", name, "--deny-file", file); code != 0 {
				t.Errorf("%s%s", stdout, stderr)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := deny.Parse(text); err != nil || len(entries) != len(names) {
		t.Errorf("%s, %v", text, err)
	}
}
