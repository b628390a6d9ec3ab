// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ZtunnelOptions say what a node's ztunnel is like.
type ZtunnelOptions struct {
	TrustDomain string    // the lab's
	Identity    *Identity // the CA to ask; the lab's
	SPIRE       *SPIRE    // asked in the CA's place; none
	Kubeconfig  string    // of an API server, instead of the directory of YAML; none
	Args        []string  // further flags, after the lab's; none
	Env         []string  // NAME=VALUE, beside the lab's environment; none
	Tags        string    // build tags; the lab's
	Program     string    // path of another build; the lab's
	Stderr      *os.File  // instead of a file of the lab; none
}

// SPIRE is where its agent is on a node: the sockets of two of its APIs.
type SPIRE struct{ Workload, Admin string }

// StartZtunnel starts the node's ztunnel and waits until it is ready. Without
// options it starts as it did before.
func (n *Node) StartZtunnel(ctx context.Context, opts ZtunnelOptions) error {
	if err := n.LaunchZtunnel(ctx, opts); err != nil {
		return err
	}
	return n.AwaitReady(ctx)
}

// LaunchZtunnel is StartZtunnel for one that may never get ready.
func (n *Node) LaunchZtunnel(ctx context.Context, opts ZtunnelOptions) error {
	if opts.TrustDomain != "" || opts.Identity != nil || opts.SPIRE != nil || opts.Kubeconfig != "" || opts.Args != nil || opts.Env != nil || opts.Tags != "" || opts.Program != "" || opts.Stderr != nil {
		n.opts = opts
	}
	program, err := n.ztunnelProgram(ctx, n.opts)
	if err != nil {
		return err
	}
	args, err := n.ztunnelArgs(n.opts)
	if err != nil {
		return err
	}
	cmd := exec.Command(program[0], append(program[1:], args...)...)
	if n.opts.Stderr != nil {
		cmd.Stderr = n.opts.Stderr
	}
	n.Ztunnel, err = n.lab.startLogged(n.ztunnel, n.ztunnel.name+"-daemon", cmd)
	return err
}

// StartSecond starts another ztunnel beside the node's, with the same flags and
// then these, and does not wait for it.
func (n *Node) StartSecond(ctx context.Context, args ...string) (*Process, error) {
	program, err := n.ztunnelProgram(ctx, n.opts)
	if err != nil {
		return nil, err
	}
	same, err := n.ztunnelArgs(n.opts)
	if err != nil {
		return nil, err
	}
	return n.ztunnel.Start("second", append(append(program, same...), args...)...)
}

// ztunnelProgram is the begin of the command line: env replaces itself by the
// program, so that the process is that.
func (n *Node) ztunnelProgram(ctx context.Context, opts ZtunnelOptions) ([]string, error) {
	program, tags := n.lab.program("ztunnel"), opts.Tags
	if tags == "" {
		tags = n.lab.opts.ZtunnelTags
	}
	if tags != "" {
		var err error
		if program, err = buildTagged(ctx, tags); err != nil {
			return nil, err
		}
	}
	if opts.Program != "" {
		program = opts.Program
	}
	if len(opts.Env) == 0 {
		return []string{program}, nil
	}
	return append(append([]string{"env"}, opts.Env...), program), nil
}

// AwaitReady waits until ztunnel says that it is ready.
func (n *Node) AwaitReady(ctx context.Context) error {
	return n.ztunnel.awaitReady(ctx, n.Ztunnel, "http://127.0.0.1:15021/healthz/ready")
}

func (n *Node) ztunnelArgs(opts ZtunnelOptions) ([]string, error) {
	l := n.lab
	domain := opts.TrustDomain
	if domain == "" {
		domain = l.opts.TrustDomain
	}
	args := []string{
		"-node-name", n.Name,
		"-trust-domain", domain,
		"-mesh-cidrs", n.meshCIDRs(),
		"-bpffs", n.BPFFS,
		"-cgroup", n.Cgroup,
		"-kubelet-cgroup", n.Kubelet.Cgroup,
		"-host-netns", n.ns.path,
		"-state-dir", n.State,
		"-log-format", "json",
	}
	if opts.Kubeconfig != "" {
		args = append(args, "-kubeconfig", opts.Kubeconfig)
	} else {
		args = append(args, "-workloads", n.yaml)
	}
	issuer, err := n.issuerArgs(opts)
	if err != nil {
		return nil, err
	}
	return slices.Concat(args, issuer, l.opts.ZtunnelArgs, opts.Args), nil
}

// issuerArgs say who gives certificates, and for how long.
func (n *Node) issuerArgs(opts ZtunnelOptions) ([]string, error) {
	if opts.SPIRE != nil {
		return []string{"-spire-agent-socket", opts.SPIRE.Workload, "-spire-admin-socket", opts.SPIRE.Admin}, nil
	}
	l, ca := n.lab, opts.Identity
	if ca == nil {
		ca = l.Identity
	}
	token := filepath.Join(n.dir, "token")
	if err := l.project(n.Name, token); err != nil {
		return nil, err
	}
	if err := n.TakeRoots(ca); err != nil {
		return nil, err
	}
	args := []string{"-ca-address", ca.Addr.String(), "-ca-root", n.rootFile(), "-ca-server-name", caName + "." + systemNamespace + ".svc", "-token-file", token}
	if l.opts.TTL > 0 {
		args = append(args, "-ttl", l.opts.TTL.String())
	}
	return args, nil
}

func (n *Node) rootFile() string { return filepath.Join(n.dir, "root.pem") }

// TakeRoots puts the CA's roots of now into the file by which the node's ztunnel knows it, as a
// kubelet does with the ConfigMap of the chart.
func (n *Node) TakeRoots(ca *Identity) error {
	pem, err := os.ReadFile(ca.Root)
	if err != nil {
		return fmt.Errorf("give %s the CA's root: %w", n.Name, err)
	}
	return writeAtomic(n.rootFile(), pem)
}

// meshCIDRs are all pods' and services' addresses of the node's mesh. Nodes, CA and outside are
// not in the mesh.
func (n *Node) meshCIDRs() string {
	cidrs := []string{services4.String(), services6.String()}
	for _, other := range n.lab.Nodes {
		if other == n || !n.lab.opts.Apart {
			cidrs = append(cidrs, other.PodCIDR4.String(), other.PodCIDR6.String())
		}
	}
	return strings.Join(cidrs, ",")
}

// HTTPGet asks a server in the node's netns, as
// "http://127.0.0.1:15000/config_dump" or "http://127.0.0.1:15020/metrics".
func (n *Node) HTTPGet(ctx context.Context, url string) (status int, body string, err error) {
	return n.ztunnel.httpGet(ctx, url)
}

// AdminGet asks ztunnel's root-only socket, as "/debug/pprof/goroutine?debug=1".
func (n *Node) AdminGet(ctx context.Context, path string) (status int, body string, err error) {
	return get(ctx, "http://ztunnel"+path, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(n.State, "admin.sock"))
	})
}
