// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// config is what the flags say.
type config struct {
	dir          string                    // this or secret is required
	secret       string                    // namespace/name, with kubeconfig
	configMap    string                    // namespace/name that gets the root; required with secret
	trustBundle  string                    // name of a ClusterTrustBundle that gets it too; none
	workloads    string                    // this or kubeconfig is required
	kubeconfig   string                    // a file, or in-cluster
	jwks         string                    // required with workloads; without, the API server reviews tokens
	dnsNames     []string                  // culvert-identity.culvert-system.svc
	nodeAccounts []identity.ServiceAccount // culvert-system/ztunnel

	listen, metrics   string
	trustDomain       spiffeid.TrustDomain
	ttl               time.Duration
	audience          string
	ignoreIstioLabels bool

	log *slog.Logger
}

const usage = `Usage: culvert-identity -dir DIR -workloads DIR -jwks FILE [flags]
       culvert-identity -kubeconfig FILE {-dir DIR | -secret NAME -root-configmap NAME} [flags]

The certificate authority of a Culvert mesh. It creates its root and issuer in
-dir if that is empty; give DIR/root.pem, and nothing else of it, to the nodes.
On Kubernetes, replicas share them in -secret, and nodes find the root in
-root-configmap. If there is a root in that, and no Secret, nothing is created.
A node proves itself by a token that the API server of -kubeconfig vouches for, or
that a key in -jwks has signed, and gets certificates for the ServiceAccounts which
that API server, or -workloads, says run on it.

A flag given twice counts once: the later replaces the earlier, lists too.

Flags:
`

// define names the flags and says which field each fills.
func define(flags *flag.FlagSet, cfg *config) {
	program.Var(flags, &cfg.dir, "dir", "", "`directory` of root.pem, root.key, issuer.pem and issuer.key; this or -secret is required", program.Path)
	program.Var(flags, &cfg.secret, "secret", "", "`namespace/name` of a Secret in the place of -dir, with the same names as keys: created if no CA ever was, and watched for another issuer; needs -kubeconfig and -root-configmap", program.Namespaced)
	program.Var(flags, &cfg.configMap, "root-configmap", "", "`namespace/name` of a ConfigMap whose root.pem is kept holding the root, for nodes; needs -kubeconfig", program.Namespaced)
	program.Var(flags, &cfg.trustBundle, "cluster-trust-bundle", "", "`name` of a ClusterTrustBundle that is kept holding the root too, where the API server has that kind (default none)", program.Subdomain)
	program.Var(flags, &cfg.workloads, "workloads", "", "`directory` of Kubernetes YAML to watch: what runs where; this or -kubeconfig is required", program.Path)
	program.Var(flags, &cfg.kubeconfig, "kubeconfig", "", "`file` that leads to the Kubernetes API server to watch and to ask about tokens, or in-cluster: by the pod's own ServiceAccount", kubeconfig)
	program.Var(flags, &cfg.jwks, "jwks", "", "JWKS `file` with the keys that sign nodes' tokens, read again for each request; required with -workloads", program.Path)
	program.Var(flags, &cfg.listen, "listen", ":15012", "`address` for requests of nodes", program.Listen)
	program.Var(flags, &cfg.metrics, "metrics-address", ":15014", "`address` for /metrics and /healthz/ready", program.Listen)
	program.Var(flags, &cfg.dnsNames, "dns-name", "culvert-identity.culvert-system.svc", "comma-separated DNS `names` in the CA's own certificate", program.List(program.DNSName))
	program.Var(flags, &cfg.nodeAccounts, "node-accounts", "culvert-system/ztunnel", "comma-separated `namespace/name` of ServiceAccounts that speak for their node", program.List(identity.ParseServiceAccount))
	program.Var(flags, &cfg.audience, "audience", server.Audience, "`audience` that a node's token must be made for", program.Word)
	program.Var(flags, &cfg.trustDomain, "trust-domain", "cluster.local", "SPIFFE trust `domain`", program.TrustDomain)
	program.Var(flags, &cfg.ttl, "ttl", "1h", "`lifetime` of certificates, 25s to 24h, unless a node asks for less", program.Duration(ca.MinTTL, ca.MaxTTL))
	program.Switch(flags, &cfg.ignoreIstioLabels, "ignore-istio-labels", "do not count as in the mesh what only istio.io/dataplane-mode puts there")
}

func kubeconfig(s string) (string, error) {
	if s == kube.InCluster {
		return s, nil
	}
	return program.Path(s)
}

func (c *config) validate() error {
	var problems []error
	require := func(ok bool, problem string) {
		if !ok {
			problems = append(problems, errors.New(problem))
		}
	}
	require(c.dir != "" || c.secret != "", "a directory (-dir) or a Secret (-secret) for the CA is required")
	require(c.dir == "" || c.secret == "", "the CA is in a directory (-dir) or in a Secret (-secret), not in both")
	require(c.secret == "" || c.configMap != "", "-root-configmap is required with -secret")
	require(c.configMap == "" || c.kubeconfig != "", "-kubeconfig is required with -root-configmap")
	require(c.trustBundle == "" || c.configMap != "", "-root-configmap is required with -cluster-trust-bundle")
	require(c.workloads != "" || c.kubeconfig != "", "a workloads directory (-workloads) or an API server (-kubeconfig) is required")
	require(c.workloads == "" || c.kubeconfig == "", "workloads come from a directory (-workloads) or from an API server (-kubeconfig), not from both")
	require(c.workloads == "" || c.jwks != "", "-jwks is required with -workloads")
	problems = append(problems, program.Apart(
		program.Listener{Flag: "listen", Address: c.listen}, program.Listener{Flag: "metrics-address", Address: c.metrics},
	))
	return errors.Join(problems...)
}
