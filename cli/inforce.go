// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/explain"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/file"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// inForce is the policies and pods that somebody goes by.
type inForce struct {
	by        string // a node, or the directory
	node      bool
	policies  policy.Objects
	workloads []workload.Workload
	network   *network // nil: nobody asked for it, or a node does not say which it holds
}

// network is the NetworkPolicies that somebody goes by.
type network struct{ explain.Network }

// set is what asks them; nil if they, or the labels of namespaces, are not known.
func (n *network) set() *networkpolicy.Set {
	if n == nil || n.Namespaces == nil {
		return nil
	}
	s := networkpolicy.NewSet()
	s.Replace(n.Policies, n.Namespaces)
	return s
}

func (n *network) explained() *explain.Network {
	if n == nil {
		return nil
	}
	return &n.Network
}

// objects says where policies and pods are read.
type objects struct {
	dir           string
	api           bool
	network       bool // NetworkPolicies are asked, too
	rootNamespace string
	trustDomain   trustDomainFlag
}

func (o *objects) define(cmd *cobra.Command, shorthand string) {
	flags := cmd.Flags()
	flags.StringVarP(&o.dir, "objects", shorthand, "", "`directory` or file of the objects as YAML, or - for standard input, instead of what nodes hold")
	flags.BoolVar(&o.api, "api-server", false, "go by the objects of the API server, instead of what nodes hold")
	flags.StringVar(&o.rootNamespace, "root-namespace", source.DefaultRootNamespace, "with --objects or --api-server: `namespace` of mesh-wide policies")
	o.trustDomain.define(cmd, "with --objects or --api-server: ")
}

// inForce asks every node, or reads the directory. The first is of a node that answered.
func (c *command) inForce(cmd *cobra.Command, o *objects) ([]inForce, error) {
	given := cmd.Flags().Changed("objects")
	switch {
	case given && o.api:
		return nil, errors.New("--objects and --api-server: give one of both")
	case given || o.api:
		read, err := c.readInForce(cmd.Context(), o)
		return []inForce{read}, err
	}
	for _, flag := range []string{"root-namespace", "trust-domain"} {
		if cmd.Flags().Changed(flag) {
			return nil, fmt.Errorf("--%s is for --objects and --api-server: nodes say theirs", flag)
		}
	}
	nodes, err := c.nodes(cmd)
	if err != nil {
		return nil, err
	}
	var all []inForce
	var problems []error
	for _, n := range nodes {
		if n.Problem != "" {
			problems = append(problems, fmt.Errorf("%s: %s", n.Name, n.Problem))
			continue
		}
		f := inForce{by: n.Name, node: true, policies: n.Dump.Policies, workloads: n.Dump.Workloads}
		if o.network {
			f.network = heldNetwork(n.Dump)
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		return nil, hint(errors.Join(problems...), "--api-server goes by what the API server has instead, --objects DIR by a directory of YAML")
	}
	return all, nil
}

// heldNetwork has no labels of namespaces if the node's version does not say them.
func heldNetwork(d fleet.Dump) *network {
	if d.Network == nil {
		return nil
	}
	n := &network{explain.Network{Policies: d.Network.Policies, Modes: d.Network.Modes}}
	if d.Network.Namespaces == nil {
		return n
	}
	n.Namespaces = map[string]workload.Namespace{}
	for name, labels := range d.Network.Namespaces {
		n.Namespaces[name] = workload.Namespace{Labels: labels}
	}
	return n
}

// readInForce refuses objects of which anything is wrong: without a policy the answer is
// another. Of an API server it does so for policies; another object may be of a newer one.
func (c *command) readInForce(ctx context.Context, o *objects) (inForce, error) {
	f := inForce{by: o.dir}
	var text file.Text
	var err error
	if o.api {
		f.by = "the API server"
		if err = c.readCluster(ctx, &text); err == nil && o.network {
			err = c.readNetwork(ctx, &text)
		}
		text.Mistakes = slices.DeleteFunc(text.Mistakes, notOfPolicy)
	} else if err = c.readObjects(o.dir, &text); err != nil {
		err = fmt.Errorf("--objects: %v", err)
	}
	if err == nil {
		err = understood(text)
	}
	if err != nil {
		return f, err
	}
	domain, err := c.trustDomain(ctx, o.trustDomain, o.api)
	if err != nil {
		return f, err
	}
	builder := source.NewBuilder(source.Options{TrustDomain: domain, RootNamespace: o.rootNamespace})
	for _, object := range text.Objects {
		if err := builder.Set(object.Object); err != nil {
			return f, fmt.Errorf("%s: %v", object.Place, err)
		}
	}
	snapshot := builder.Snapshot()
	f.policies, f.workloads = snapshot.Policies, snapshot.Mesh.Workloads.Unpack()
	if !o.network {
		return f, nil // an empty set would say that they admit all
	}
	set := networkpolicy.NewSet()
	set.Replace(snapshot.NetworkPolicies, snapshot.Mesh.Namespaces)
	f.network = &network{explain.Network{Policies: snapshot.NetworkPolicies, Modes: set.Modes(), Namespaces: snapshot.Mesh.Namespaces, Strange: strangeModes(text)}}
	return f, nil
}

// strangeModes are the namespaces whose mode means nothing: nodes go on in the one that they
// had, which nobody can tell by the objects.
func strangeModes(text file.Text) map[string]string {
	out := map[string]string{}
	for _, o := range text.Objects {
		if ns, is := o.Object.(*corev1.Namespace); is {
			if _, strange := networkpolicy.ModeOf(ns.Labels); strange {
				out[ns.Name] = ns.Labels[networkpolicy.ModeLabel]
			}
		}
	}
	return out
}

func notOfPolicy(err error) bool {
	var m *file.Mistake
	if !errors.As(err, &m) {
		return false
	}
	kind, _ := m.Of()
	return kind != source.KindPeerAuthentication && kind != source.KindAuthorizationPolicy && kind != source.KindNetworkPolicy
}

// understood returns what is wrong, and what stands twice.
func understood(text file.Text) error {
	problems := text.Mistakes
	type key struct {
		kind            source.Kind
		namespace, name string
	}
	places := map[key]string{}
	for _, o := range text.Objects {
		k := key{source.KindOf(o.Object), o.GetNamespace(), o.GetName()}
		if first, twice := places[k]; twice {
			problems = append(problems, fmt.Errorf("%s: %s %s: is also in %s", o.Place, k.kind, strings.TrimPrefix(k.namespace+"/"+k.name, "/"), first))
		}
		places[k] = o.Place
	}
	return errors.Join(problems...)
}

// pod finds one by namespace/name, or by a name that only one namespace has.
func (f inForce) pod(text string) (workload.Workload, error) {
	namespace, name, qualified := strings.Cut(text, "/")
	if !qualified {
		namespace, name = "", text
	}
	var found []workload.Workload
	for _, w := range f.workloads {
		if w.Name == name && (!qualified || w.Namespace == namespace) && !w.Terminated {
			found = append(found, w)
		}
	}
	switch len(found) {
	case 0:
		return workload.Workload{}, hint(fmt.Errorf("no pod %s is known to %s", text, f.by), "%s", f.like(name))
	case 1:
		return found[0], nil
	}
	return workload.Workload{}, fmt.Errorf("pod %s is in %s and %s: say which, as %s", text, found[0].Namespace, found[1].Namespace, found[0])
}

// like names pods for whoever named none.
func (f inForce) like(name string) string {
	var names []string
	for _, w := range f.workloads {
		if w.Owner == name || strings.HasPrefix(w.Name, name) {
			names = append(names, w.String())
		}
	}
	if slices.Sort(names); len(names) == 0 {
		return "name a pod as namespace/name"
	}
	return "there is " + strings.Join(names[:min(len(names), 3)], ", ")
}

// sources is who --from names: a pod, by each address that leads to dst, a SPIFFE ID or an
// address. It also says who that is.
func (f inForce) sources(text string, dst *workload.Workload) ([]explain.Source, string, error) {
	if strings.HasPrefix(text, "spiffe://") {
		id, err := spiffeid.FromString(text)
		if err != nil {
			return nil, "", fmt.Errorf("--from %q: %v", text, err)
		}
		return []explain.Source{{ID: id}}, text, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		if w, is := f.at(addr); is {
			w.Addrs = []netip.Addr{addr}
			return senders(w, dst)
		}
		return []explain.Source{{Addr: addr}}, fmt.Sprintf("%v, plaintext", addr), nil
	}
	w, err := f.pod(text)
	if err != nil {
		return nil, "", fmt.Errorf("--from: %w", err)
	}
	return senders(w, dst)
}

// at is the pod that has an address to itself.
func (f inForce) at(addr netip.Addr) (workload.Workload, bool) {
	i := slices.IndexFunc(f.workloads, func(w workload.Workload) bool {
		return !w.Terminated && !w.HostNetwork && slices.Contains(w.Addrs, addr)
	})
	if i < 0 {
		return workload.Workload{}, false
	}
	return f.workloads[i], true
}

func senders(w workload.Workload, dst *workload.Workload) ([]explain.Source, string, error) {
	if w.Undecided {
		return nil, "", fmt.Errorf("--from %v: no label says whether it is in the mesh, or one means nothing", w)
	}
	as := "plaintext"
	if w.Meshed {
		as = w.ID.String()
	}
	all := explain.Sources(&w, dst)
	var at []string
	for _, s := range all {
		if s.Addr.IsValid() {
			at = append(at, s.Addr.String())
		}
	}
	return all, fmt.Sprintf("%v, %s, %s", w, cmp.Or(strings.Join(at, " or "), "no address"), as), nil
}
