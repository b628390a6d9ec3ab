// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// What is asked may heed no deadline: whoever presses Tab does not wait for it.
func TestNobodyWaitsForCompletionLongerThanASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan []string)
		defer close(answers)
		complete := (&command{}).offering(func(context.Context, *command, line) []string { return <-answers })
		cmd := &cobra.Command{}
		cmd.SetContext(t.Context())
		began := time.Now()
		names, directive := complete(cmd, nil, "")
		if took := time.Since(began); took != time.Second || len(names) > 0 || directive != cobra.ShellCompDirectiveNoFileComp {
			t.Errorf("after %v: %q, directive %d", took, names, directive)
		}
	})
}

// named are what flags' and commands' usage call names of what there is, and files.
var (
	namedFlags = map[string]bool{"namespace": true, "node": true, "nodes": true, "names": true, "pod": true, "client": true, "server": true,
		"source": true, "ID": true, "identity": true, "directory": true, "file": true, "files": true, "paths": true, "policies": true, "words": true}
	flagOfUsage    = regexp.MustCompile(`--?[a-z]+ [A-Z]+`)
	namedArguments = regexp.MustCompile(`\b(SRC|DST|POD|NODE|ID|DIR|FILE)\b`)
	// Only names of another mesh, of a browser's, or of what is to be made.
	namesNobodyKnows = []string{"culvert map --host", "culvert policy lint --federated", "culvert bench cluster --bench-namespace", "culvert bench clean --bench-namespace"}
)

func TestEveryNameThatACommandTakesIsCompleted(t *testing.T) {
	seen := 0
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if namedArguments.MatchString(flagOfUsage.ReplaceAllString(cmd.Use, "")) {
			seen++
			if cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil {
				t.Errorf("nothing completes the arguments of %s %s", cmd.CommandPath(), cmd.Use)
			}
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if kind, _ := pflag.UnquoteUsage(f); !namedFlags[kind] || slices.Contains(namesNobodyKnows, cmd.CommandPath()+" --"+f.Name) {
				return
			}
			seen++
			if _, has := cmd.GetFlagCompletionFunc(f.Name); !has {
				t.Errorf("nothing completes %s --%s", cmd.CommandPath(), f.Name)
			}
		})
		for _, part := range cmd.Commands() {
			visit(part)
		}
	}
	visit(New(Process{Now: time.Now}))
	if seen < 100 {
		t.Errorf("only %d names were found", seen)
	}
}

func TestNamesAreCompletedByWhatAClusterHas(t *testing.T) {
	one, _ := clitest.Pair()
	k := &clitest.Kubernetes{}
	k.Pod("culvert-system", "ztunnel-1", "ztunnel", "node1", true, map[string]string{"15000": clitest.Serve(t, one)})
	k.Pod("culvert-system", "ztunnel-2", "ztunnel", "node2", true, nil) // it does not answer
	k.Pod("culvert-system", "ca-1", "culvert-identity", "node1", true, nil)
	k.Pod("other-mesh", "ca-1", "culvert-identity", "node1", true, nil)
	kubeconfig := k.Kubeconfig(t, t.TempDir())
	put(k, denyPath, map[string]string{"deny.yaml": "- node: node-7\n"}, nil)

	for line, want := range map[string]string{
		"why shop/w":               "shop/web-1",
		"verify shop/web-1 shop/d": "shop/db-1:5432 shop/db:5432",
		"certs list --node ":       "node1 node2",
		"status --namespace ":      "culvert-system other-mesh",
		"edges --ns s":             "shop",
		"node release ":            "node-7",
	} {
		var stdout, stderr bytes.Buffer
		words := strings.Split(line, " ")
		code := Run(t.Context(), Process{
			Args:   slices.Concat([]string{"culvert", cobra.ShellCompRequestCmd, words[0], "--kubeconfig", kubeconfig}, words[1:]),
			Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" },
		})
		if got := strings.Join(strings.Fields(stdout.String()), " "); code != exitOK || got != want+" :4" {
			t.Errorf("%s: exit code %d, %s, want %s\n%s", line, code, got, want, &stderr)
		}
	}
}
