// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// install puts Culvert on a cluster that is up, as a user does: the chart is rendered and
// applied. It returns when all of it is ready.
func install(ctx context.Context, name string) error {
	module, err := moduleDir()
	if err != nil {
		return err
	}
	programs, err := binaries.Build(ctx, module, io.Discard)
	if err != nil {
		return err
	}
	cgroup, err := output(exec.CommandContext(ctx, "/proc/self/exe", "enter", "-name", name, "node1",
		"findmnt", "--noheadings", "--first-only", "--output=TARGET", "--types=cgroup2"))
	if err != nil {
		return err
	}
	fmt.Println("rendering the chart; the first time on a machine, building helm takes minutes")
	helm := exec.CommandContext(ctx, "go", "tool", "-modfile=tools/helm/go.mod", "helm", "template", "culvert", "deploy/chart",
		"--namespace=culvert-system", "--set=namespace.create=true", "--set=crds=true", "--set=image.pullPolicy=Never",
		"--set=ztunnel.cgroup="+cgroup, "--set=ztunnel.kubeletCgroup="+cgroup+"/"+cluster.KubeletCgroup)
	helm.Dir = filepath.Join(module, "../..")
	objects, err := output(helm)
	if err != nil {
		return err
	}
	kubectl := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, filepath.Join(programs, "kubectl"), append([]string{"--kubeconfig=" + cluster.Kubeconfig(name)}, args...)...)
	}
	apply := kubectl("apply", "--filename=-")
	apply.Stdin = strings.NewReader(objects)
	if _, err := output(apply); err != nil {
		return err
	}
	for _, what := range []string{"deployment/culvert-identity", "daemonset/ztunnel"} {
		if _, err := output(kubectl("rollout", "status", "--namespace=culvert-system", what, "--timeout=3m")); err != nil {
			return err
		}
	}
	return nil
}

// output is what a command prints, or its complaint.
func output(cmd *exec.Cmd) (string, error) {
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", filepath.Base(cmd.Path), err, out, &complaint)
	}
	return strings.TrimSpace(string(out)), nil
}
