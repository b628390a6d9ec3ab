// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/cli/lint"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
)

// linted is what lint found.
type linted struct {
	Findings []lint.Finding `json:"findings"`
	Policies int            `json:"policies"` // that were looked at
	OK       bool           `json:"ok"`
}

func (c *command) policyLint() *cobra.Command {
	w := lint.World{}
	var trustDomain trustDomainFlag
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint [DIR|FILE|-]",
		Short: "Find what policies say and nobody meant",
		Long: `lint reads PeerAuthentications and AuthorizationPolicies as ztunnel does, and says what they
do that was hardly meant: a policy for the whole mesh in place of a namespace, a port of a
Service in place of the pod's, a DENY that refuses nobody, a field of layer 7. Each finding
has a stable code, and what to do.

The objects are those of a directory of YAML or JSON, of a file, or, with -, of standard
input, as kubectl get -o yaml prints them; without an argument those of the API server. What
a policy names is looked for among the pods, Services, Namespaces and ServiceAccounts beside
it, as far as there are any.

The exit code is 1 if there is an error, or with --strict a warning, and 2 if the objects
could not be read.`,
		Example: `  culvert policy lint manifests/
  kubectl get ns,pod,svc,sa,peerauthentication,authorizationpolicy -A -o yaml | culvert policy lint -
  culvert policy lint --upgrade`,
		Args: cobra.MaximumNArgs(1),
	}
	out := formats(cmd, "table", "json")
	flags := cmd.Flags()
	flags.BoolVar(&strict, "strict", false, "exit with 1 if there is a warning")
	trustDomain.define(cmd, "")
	flags.StringSliceVar(&w.Federated, "federated", nil, "`names` of trust domains that the CA is federated with (default what the CA says, with objects of the API server; else none)")
	flags.StringVar(&w.RootNamespace, "root-namespace", source.DefaultRootNamespace, "`namespace` of mesh-wide policies")
	flags.BoolVar(&w.Upgrade, "upgrade", false, "also say whom policies let in that earlier versions of Culvert took for a refusal of everybody")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		w.Live = len(args) == 0
		if wrong := validation.IsDNS1123Label(w.RootNamespace); len(wrong) > 0 {
			return fmt.Errorf("--root-namespace %q: %s", w.RootNamespace, wrong[0])
		}
		if w.Live {
			err = c.readCluster(cmd.Context(), &w.Text)
		} else {
			err = c.readObjects(args[0], &w.Text)
		}
		if err != nil {
			return err
		}
		if w.TrustDomain, err = c.trustDomain(cmd.Context(), trustDomain, w.Live); err != nil {
			return err
		}
		for _, name := range w.Federated {
			if _, err := spiffeid.TrustDomainFromString(name); err != nil {
				return fmt.Errorf("--federated %q: %v", name, err)
			}
		}
		if w.Live && !flags.Changed("federated") {
			w.Federated = c.saidFederated(cmd.Context())
		}
		found := linted{Findings: nonNil(lint.Run(w)), Policies: policiesIn(w.Text)}
		if !w.Live && found.Policies == 0 && len(found.Findings) == 0 {
			return fmt.Errorf("%s: no PeerAuthentication and no AuthorizationPolicy", args[0])
		}
		found.OK = !found.has(lint.Error) && !(strict && found.has(lint.Warning))
		end := error(nil)
		if !found.OK {
			end = &ended{exitWarnings}
		}
		if out.value == "json" {
			return errors.Join(printJSON(c.Stdout, found), end)
		}
		found.print(c.Stdout)
		return end
	}
	return cmd
}

func policiesIn(t file.Text) (n int) {
	for _, o := range t.Objects {
		switch source.KindOf(o.Object) {
		case source.KindPeerAuthentication, source.KindAuthorizationPolicy:
			n++
		}
	}
	return n
}

// readObjects reads a directory, a file or standard input.
func (c *command) readObjects(from string, into *file.Text) (err error) {
	var data []byte
	switch info, statErr := os.Stat(from); {
	case from == "-":
		from = "stdin"
		data, err = io.ReadAll(c.Stdin)
	case statErr != nil:
		return statErr
	case info.IsDir():
		*into, err = file.Read(from)
		return err
	default:
		data, err = os.ReadFile(from)
	}
	if json.Valid(data) && filepath.Ext(from) != ".json" {
		from += ".json"
	}
	into.Add(from, data)
	return err
}

// What a cluster's policies are about. Istio's kinds may be of an older version, or missing.
var (
	lintedPaths = []string{"/api/v1/namespaces", "/api/v1/pods", "/api/v1/services", "/api/v1/serviceaccounts"}
	istioKinds  = []string{"peerauthentications", "authorizationpolicies"}
)

func (c *command) readCluster(ctx context.Context, into *file.Text) error {
	if err := c.from.check(); err != nil {
		return err
	}
	if c.from.machine() {
		return errors.New("without Kubernetes name a directory of objects, a file or -")
	}
	cluster, err := c.from.cluster()
	if err != nil {
		return err
	}
	for _, path := range lintedPaths {
		if err := readAll(ctx, cluster.API, path, into); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	for _, kind := range istioKinds {
		err := readAll(ctx, cluster.API, "/apis/security.istio.io/v1/"+kind, into)
		if apierrors.IsNotFound(err) {
			err = readAll(ctx, cluster.API, "/apis/security.istio.io/v1beta1/"+kind, into)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read %s: %w", kind, err)
		}
	}
	return nil
}

func (c *command) readNetwork(ctx context.Context, into *file.Text) error {
	cluster, err := c.from.cluster()
	if err != nil {
		return err
	}
	if err := readAll(ctx, cluster.API, "/apis/networking.k8s.io/v1/networkpolicies", into); err != nil {
		return fmt.Errorf("read networkpolicies: %w", err)
	}
	return nil
}

func readAll(ctx context.Context, api *kubeapi.API, path string, into *file.Text) error {
	return api.Pages(ctx, path, func(page []byte) { into.Add(path+".json", page) })
}

func (l linted) has(s lint.Severity) bool { return l.count(s) > 0 }

func (l linted) count(s lint.Severity) (n int) {
	for _, f := range l.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

var severityMarks = map[lint.Severity]string{lint.Error: "×", lint.Warning: "‼", lint.Info: "i"}

// print says what people read: an object, what is found of it, and of each code once what
// to do.
func (l linted) print(w io.Writer) {
	object := ""
	for i, f := range l.Findings {
		if at := f.Object + " " + f.Place; i == 0 || at != object {
			if object = at; i > 0 {
				fmt.Fprintln(w)
			}
			if f.Object != "" {
				fmt.Fprintln(w, printable(titled(f)))
			}
		}
		text := f.Text
		if f.Field != "" {
			text = f.Field + ": " + text
		}
		fmt.Fprintf(w, "%s %s: %s\n", severityMarks[f.Severity], f.Code, printable(text))
		if next := i + 1; next == len(l.Findings) || l.Findings[next].Code != f.Code || l.Findings[next].Object != f.Object {
			fmt.Fprintf(w, "    hint: %s\n    see %s\n", f.Hint, f.Docs)
		}
	}
	if len(l.Findings) > 0 {
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%d policies: %d errors, %d warnings, %d infos\n", l.Policies, l.count(lint.Error), l.count(lint.Warning), l.count(lint.Info))
}

func titled(f lint.Finding) string {
	if f.Place == "" {
		return f.Object
	}
	return f.Object + ", " + f.Place
}
