// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// What a node has is what the recipe says it makes, and it runs.
func TestCulvertsImagesAreOnBothNodesAndRun(t *testing.T) {
	c := useShared(t)
	c.awaitServiceAccount()
	for name, digest := range buildCulvert(t) {
		program := strings.TrimSuffix(strings.TrimPrefix(name, "localhost/culvert/"), ":dev")
		for _, node := range []string{"node1", "node2"} {
			held := c.enter(node, "ctr", "--namespace=k8s.io", "images", "list", "name=="+name)
			if !strings.Contains(held, digest) {
				t.Errorf("%s has, of %s, which should be %s:\n%s", node, name, digest, held)
			}
			pod := program + "-" + node
			t.Cleanup(func() { _, _ = c.kubectl("delete", "pod", pod, "--grace-period=1") })
			version := []string{"-version"}
			if program == "culvert" {
				version = []string{"version", "--client"}
			}
			c.mustKubectl(append([]string{"run", pod, "--image=" + name, "--image-pull-policy=Never", "--restart=Never",
				fmt.Sprintf(`--overrides={"spec":{"nodeName":%q}}`, node), "--"}, version...)...)
			c.mustKubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/"+pod, "--timeout=60s")
			if said := c.mustKubectl("logs", pod); !strings.HasPrefix(said, program+" ") {
				t.Errorf("%s -version says %q", program, said)
			}
		}
	}
}

// buildCulvert returns the digests of Culvert's images by name.
func buildCulvert(t *testing.T) map[string]string {
	t.Helper()
	cmd := exec.Command("go", "run", "./deploy/images", "build", "-out", t.TempDir(), "-arch", runtime.GOARCH)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build Culvert's images: %v", err)
	}
	digests := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if name, digest, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			digests[name] = digest
		}
	}
	if len(digests) < 3 {
		t.Fatalf("the recipe made %v, want at least three images", digests)
	}
	return digests
}
