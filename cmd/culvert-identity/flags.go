// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/federation"
	"github.com/culvert-mesh/culvert/identity/ledger"
	"github.com/culvert-mesh/culvert/identity/server"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// config is what the flags say.
type config struct {
	dir          string                    // this or secret is required
	secret       string                    // namespace/name, with kubeconfig
	passphrase   string                    // file that encrypted keys of the CA are opened by; none
	vault        upstream                  // has the root, unless its address is empty
	existing     bool                      // never make a CA
	configMap    string                    // namespace/name that gets the root; required with secret
	trustBundle  string                    // name of a ClusterTrustBundle that gets it too; none
	workloads    string                    // this or kubeconfig is required
	kubeconfig   string                    // a file, or in-cluster
	jwks         string                    // required with workloads; without, the API server reviews tokens
	joinTokens   string                    // directory of join tokens; without, none are taken
	joinSecret   string                    // namespace/name of a Secret of them instead, with kubeconfig
	dnsNames     []string                  // culvert-identity.culvert-system.svc
	nodeAccounts []identity.ServiceAccount // culvert-system/ztunnel
	daemonSets   []string                  // ztunnel; anyPod alone: no matter
	deny         string                    // file of the deny set; this, denyConfigMap, or nothing is denied

	denyConfigMap string // namespace/name, with kubeconfig
	crl           string // file of revocation lists; this, crlConfigMap, or nothing is revoked
	crlConfigMap  string // namespace/name, with kubeconfig

	ledger     string        // directory; without, none is kept
	ledgerAge  time.Duration // 2160h
	ledgerSize int64         // bytes; 1 GiB

	ledgerConfigMap   string // namespace/name that gets its checkpoints too, with ledger and kubeconfig; this, ledgerCheckpoints, or none
	ledgerCheckpoints string // directory that gets them, with ledger

	federation      string        // file of other trust domains; none
	federationState string        // directory that keeps their bundles; none
	bundleEndpoint  string        // address of the own bundle for others; none
	endpointCert    string        // file, with endpointKey: then the profile is https_web
	endpointKey     string        // file
	refreshHint     time.Duration // 5 m

	listen, metrics   string
	admin             string // a loopback address
	trustDomain       spiffeid.TrustDomain
	ttl               time.Duration
	clockSkew         time.Duration
	keys              identity.KeyKind // of a CA that is made
	audience          string
	issuer            string        // of nodes' tokens; with jwks server.KubernetesIssuer, else what the API server takes
	tokenLifetime     time.Duration // 24 h
	oidcIssuer        string        // instead of jwks
	oidcCA            string        // file; the system's roots
	ignoreIstioLabels bool
	dnsSANs           bool
	taintAfter        time.Duration // that a ztunnel is away before its node gets the taint; 0: never
	rootNamespace     string        // istio-system
	policyStatus      string        // namespace/name of the Lease of whoever writes policies' status, with kubeconfig; none: nobody

	log *slog.Logger
}

// leastTaintAfter lets a ztunnel start again before its node gets the taint.
const leastTaintAfter = 10 * time.Second

const usage = `Usage: culvert-identity -dir DIR -workloads DIR -jwks FILE [flags]
       culvert-identity -kubeconfig FILE {-dir DIR | -secret NAME -root-configmap NAME} [flags]

The certificate authority of a Culvert mesh. It creates its root and issuer in
-dir if that is empty; give DIR/root.pem, and nothing else of it, to the nodes.
On Kubernetes, replicas share them in -secret, and nodes find the root in
-root-configmap. If there is a root in that, and no Secret, nothing is created.
A node proves itself by a token that the API server of -kubeconfig vouches for, or
that a key in -jwks has signed, and gets certificates for the ServiceAccounts which
that API server, or -workloads, says run on it. A process outside Kubernetes proves
itself by a token of -join-tokens once, and then by its own certificate.

A flag given twice counts once: the later replaces the earlier, lists too.

Flags:
`

// define names the flags and says which field each fills.
func define(flags *flag.FlagSet, cfg *config) {
	program.Var(flags, &cfg.dir, "dir", "", "`directory` of root.pem, issuer.pem and issuer.key, or of another layout of docs/identity.md; this or -secret is required", program.Path)
	program.Var(flags, &cfg.secret, "secret", "", "`namespace/name` of a Secret in the place of -dir, with the same names as keys: created if no CA ever was, and watched for another issuer; needs -kubeconfig and -root-configmap", program.Namespaced)
	program.Var(flags, &cfg.passphrase, "passphrase-file", "", "`file` whose one line opens private keys of the CA that are encrypted, read again with each change (default: encrypted keys are refused)", program.Path)
	cfg.vault.define(flags)
	program.Switch(flags, &cfg.existing, "existing-ca", "never make a CA: that in -dir or -secret is its operator's; with -secret it is waited for")
	program.Var(flags, &cfg.configMap, "root-configmap", "", "`namespace/name` of a ConfigMap whose root.pem is kept holding the root, for nodes; needs -kubeconfig", program.Namespaced)
	program.Var(flags, &cfg.trustBundle, "cluster-trust-bundle", "", "`name` of a ClusterTrustBundle that is kept holding the root too, where the API server has that kind (default none)", program.Subdomain)
	program.Var(flags, &cfg.workloads, "workloads", "", "`directory` of Kubernetes YAML to watch: what runs where; this or -kubeconfig is required", program.Path)
	program.Var(flags, &cfg.kubeconfig, "kubeconfig", "", "`file` that leads to the Kubernetes API server to watch and to ask about tokens, or in-cluster: by the pod's own ServiceAccount", kubeconfig)
	program.Var(flags, &cfg.jwks, "jwks", "", "JWKS `file` with the keys that sign nodes' tokens, read again for each request; required with -workloads", program.Path)
	program.Var(flags, &cfg.joinTokens, "join-tokens", "", "`directory` of join tokens, by which processes outside Kubernetes get the identity that an operator made the token for (default: none are taken)", program.Path)
	program.Var(flags, &cfg.joinSecret, "join-secret", "", "`namespace/name` of a Secret of join tokens, which stands for -join-tokens; needs -kubeconfig", program.Namespaced)
	program.Var(flags, &cfg.listen, "listen", ":15012", "`address` for requests of nodes", program.Listen)
	program.Var(flags, &cfg.metrics, "metrics-address", ":15014", "`address` for /metrics, /readyz and /healthz/ready", program.Listen)
	program.Var(flags, &cfg.admin, "admin-address", "127.0.0.1:15013", "loopback `address` for GET /config_dump and GET /ledger", program.Loopback)
	program.Var(flags, &cfg.dnsNames, "dns-name", "culvert-identity.culvert-system.svc", "comma-separated DNS `names` in the CA's own certificate", program.List(program.DNSName))
	program.Var(flags, &cfg.nodeAccounts, "node-accounts", "culvert-system/ztunnel", "comma-separated `namespace/name` of ServiceAccounts that speak for their node", program.List(identity.ParseServiceAccount))
	program.Var(flags, &cfg.daemonSets, "node-daemonset", "ztunnel", "comma-separated `names` of the DaemonSets whose pods speak for their node, beside -node-accounts; "+anyPod+" for every pod of these ServiceAccounts", program.List(daemonSet))
	program.Var(flags, &cfg.audience, "audience", server.Audience, "`audience` that a node's token must be made for", program.Word)
	program.Var(flags, &cfg.deny, "deny", "", "`file` of what gets no certificate: a YAML list of entries {id, node, serial, spki or issuer; until; reason}, watched (default nothing)", program.Path)
	program.Var(flags, &cfg.denyConfigMap, "deny-configmap", "", "`namespace/name` of a ConfigMap whose deny.yaml stands for -deny; needs -kubeconfig", program.Namespaced)
	program.Var(flags, &cfg.ledger, "ledger", "", "`directory` of the ledger: a line for each certificate and each refusal of a caller that proved who it is, in a chain that shows what was changed; replicas of other hosts may share it (default: none is kept)", program.Path)
	program.Var(flags, &cfg.ledgerAge, "ledger-age", "2160h", "`time` after which files of the ledger are removed, 1h to 87600h", program.Duration(time.Hour, 87600*time.Hour))
	program.Var(flags, &cfg.ledgerSize, "ledger-size", "1Gi", "`bytes` that the ledger may take, 1Mi to 1Ti: beyond, its oldest files are removed", program.Size(ledger.MinBytes, 1<<40))
	program.Var(flags, &cfg.ledgerConfigMap, "ledger-configmap", "", "`namespace/name` of a ConfigMap that is kept holding the ledger's last checkpoint, too: a ledger that is put back or cut off is found by it; needs -ledger and -kubeconfig (default: it is on the ledger's disk alone)", program.Namespaced)
	program.Var(flags, &cfg.ledgerCheckpoints, "ledger-checkpoints", "", "`directory` of another host, as of a mount, that stands for -ledger-configmap where there is no Kubernetes; needs -ledger", program.Path)
	program.Var(flags, &cfg.crl, "crl", "", "`file` of certificate revocation lists in PEM by issuers and roots of this CA, whose serial numbers are denied as by -deny, watched; not with -deny-configmap (default nothing)", program.Path)
	program.Var(flags, &cfg.crlConfigMap, "crl-configmap", "", "`namespace/name` of a ConfigMap whose ca-crl.pem stands for -crl, as Istio's istio-ca-crl; needs -kubeconfig, not with -deny", program.Namespaced)
	program.Var(flags, &cfg.oidcIssuer, "oidc-issuer", "", "`URL` of the issuer of nodes' tokens, whose published keys are taken instead of those of -jwks", oidcIssuer)
	program.Var(flags, &cfg.oidcCA, "oidc-ca", "", "`file` of the roots in PEM that vouch for the server of -oidc-issuer (default those of the system)", program.Path)
	program.Var(flags, &cfg.issuer, "issuer", "", "`issuer` (iss) that a node's token must name (default "+server.KubernetesIssuer+" with -jwks, else any that the API server takes)", program.Word)
	program.Var(flags, &cfg.tokenLifetime, "max-token-lifetime", "24h", "how `long` a node's token may be valid from when it was issued, 10m to 8760h", program.Duration(10*time.Minute, 8760*time.Hour))
	program.Var(flags, &cfg.trustDomain, "trust-domain", "cluster.local", "SPIFFE trust `domain`", program.TrustDomain)
	program.Var(flags, &cfg.ttl, "ttl", "1h", "`lifetime` of certificates, 25s to 24h, unless a node asks for less", program.Duration(ca.MinTTL, ca.MaxTTL))
	program.Var(flags, &cfg.clockSkew, "clock-skew", "0s", "how far a clock of the mesh may be off, a `time` of 0s to 15m, as ztunnel's flag of that name: certificates are backdated by it", program.Duration(0, identity.MaxClockSkew))
	program.Var(flags, &cfg.keys, "key-kind", "p256", "`kind` of the keys of a CA that is made, root and issuer: p256, or mldsa65, which all nodes must know", identity.ParseKeyKind)
	program.Switch(flags, &cfg.dnsSANs, "dns-sans", "name in certificates, beside the SPIFFE ID, the pods that they are for (NAME.NAMESPACE.pod) and the Services that select these, for verifiers that know DNS names only; with -kubeconfig, Services are watched, too")
	program.Switch(flags, &cfg.ignoreIstioLabels, "ignore-istio-labels", "do not count as in the mesh what only istio.io/dataplane-mode puts there")
	program.Var(flags, &cfg.taintAfter, "taint-after", "0s", "`time` for which a node's ztunnel is away until the node gets the taint "+source.NotReadyTaint+", 10s to 24h, or 0s for never; needs -kubeconfig, the right to patch Nodes, and ztunnels with -untaint", program.Duration(0, 24*time.Hour))
	program.Var(flags, &cfg.federation, "federation", "", "`file` of other trust domains whose workloads may be peers: a YAML list of {trustDomain, url, profile; endpointSPIFFEID and bundleFile, or rootsFile}, read again when it changes (default none)", program.Path)
	program.Var(flags, &cfg.federationState, "federation-state", "", "`directory` that keeps the bundles of -federation over restarts (default: they are fetched anew)", program.Path)
	program.Var(flags, &cfg.bundleEndpoint, "bundle-endpoint", "", "`address` where other trust domains get this one's bundle by the SPIFFE Federation standard; it proves itself as spiffe://TRUST-DOMAIN/culvert/identity, the profile https_spiffe (default: nobody gets it)", program.Listen)
	program.Var(flags, &cfg.endpointCert, "bundle-endpoint-cert", "", "`file` of a certificate in PEM, with its intermediates, that proves -bundle-endpoint by its DNS name instead, the profile https_web; read again when it changes", program.Path)
	program.Var(flags, &cfg.endpointKey, "bundle-endpoint-key", "", "`file` of the key of -bundle-endpoint-cert in PEM", program.Path)
	program.Var(flags, &cfg.refreshHint, "bundle-refresh-hint", "5m", "`time` after which others should fetch this bundle again, 5s to 1h", program.Duration(federation.MinRefresh, federation.MaxRefresh))
	program.Var(flags, &cfg.rootNamespace, "root-namespace", source.DefaultRootNamespace, "`namespace` of mesh-wide policy, as ztunnel's flag of that name", program.Label)
	program.Var(flags, &cfg.policyStatus, "policy-status", "", "`namespace/name` of a Lease: the replica that holds it writes into the status of each AuthorizationPolicy and PeerAuthentication what of it is not understood (default: nobody does); needs -kubeconfig", program.Namespaced)
}

// within reports whether a path is in a directory, as they are written.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// anyPod as a DaemonSet says that it does not matter of which a pod is.
const anyPod = "*"

func daemonSet(s string) (string, error) {
	if s == anyPod {
		return s, nil
	}
	return program.Subdomain(s)
}

func oidcIssuer(s string) (string, error) {
	_, err := server.OIDCIssuer(s)
	return s, err
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
	problems = append(problems, c.vault.problems())
	require(c.joinSecret == "" || c.kubeconfig != "", "-kubeconfig is required with -join-secret")
	require(c.joinSecret == "" || c.joinTokens == "", "join tokens are in a directory (-join-tokens) or in a Secret (-join-secret), not in both")
	require(c.denyConfigMap == "" || c.kubeconfig != "", "-kubeconfig is required with -deny-configmap")
	require(c.denyConfigMap == "" || c.deny == "", "the deny set is a file (-deny) or in a ConfigMap (-deny-configmap), not both")
	require(c.crlConfigMap == "" || c.kubeconfig != "", "-kubeconfig is required with -crl-configmap")
	require(c.crlConfigMap == "" || c.crl == "", "revocation lists are in a file (-crl) or in a ConfigMap (-crl-configmap), not both")
	// The sets of files are numbered by a clock, those of ConfigMaps by the API server. The
	// clock's number is always the greater one, so nodes would miss changes of the ConfigMap.
	require(c.denyConfigMap == "" || c.crl == "", "the deny set in a ConfigMap (-deny-configmap) and revocation lists in a file (-crl) do not go together: want -crl-configmap")
	require(c.crlConfigMap == "" || c.deny == "", "the deny set in a file (-deny) and revocation lists in a ConfigMap (-crl-configmap) do not go together: want -deny-configmap")
	require(c.workloads == "" || c.jwks != "" || c.oidcIssuer != "", "-jwks or -oidc-issuer is required with -workloads")
	require(c.oidcIssuer == "" || c.jwks == "", "keys come from a file (-jwks) or from their issuer (-oidc-issuer), not from both")
	require(c.oidcIssuer == "" || c.issuer == "", "-oidc-issuer says who the issuer is: -issuer is for -jwks and the API server")
	require(c.oidcCA == "" || c.oidcIssuer != "", "-oidc-issuer is required with -oidc-ca")
	require(c.ledger == "" || c.ledger != c.dir, "the ledger (-ledger) and the CA (-dir) cannot share a directory")
	require(c.ledgerConfigMap == "" || c.ledger != "", "-ledger is required with -ledger-configmap")
	require(c.ledgerCheckpoints == "" || c.ledger != "", "-ledger is required with -ledger-checkpoints")
	require(c.ledgerCheckpoints == "" || c.ledger == "" || !within(c.ledger, c.ledgerCheckpoints), "the directory of -ledger-checkpoints is in that of -ledger: whoever has that disk has both")
	require(c.ledgerCheckpoints == "" || c.ledgerConfigMap == "", "checkpoints are kept in a ConfigMap (-ledger-configmap) or in a directory (-ledger-checkpoints), not in both")
	require(c.ledgerConfigMap == "" || c.kubeconfig != "", "-kubeconfig is required with -ledger-configmap")
	require(c.federationState == "" || c.federation != "", "-federation is required with -federation-state")
	require((c.endpointCert == "") == (c.endpointKey == ""), "-bundle-endpoint-cert and -bundle-endpoint-key go together")
	require(c.endpointCert == "" || c.bundleEndpoint != "", "-bundle-endpoint is required with -bundle-endpoint-cert")
	require(c.taintAfter == 0 || c.kubeconfig != "", "-kubeconfig is required with -taint-after")
	require(c.taintAfter == 0 || c.taintAfter >= leastTaintAfter, fmt.Sprintf("-taint-after %v: want 0s for never, or %v to 24h", c.taintAfter, leastTaintAfter))
	require(c.policyStatus == "" || c.kubeconfig != "", "-kubeconfig is required with -policy-status")
	require(len(c.daemonSets) == 1 || !slices.Contains(c.daemonSets, anyPod), "-node-daemonset "+strings.Join(c.daemonSets, ",")+": want names, or "+anyPod+" alone")
	problems = append(problems, program.Apart(
		program.Listener{Flag: "listen", Address: c.listen}, program.Listener{Flag: "metrics-address", Address: c.metrics},
		program.Listener{Flag: "admin-address", Address: c.admin},
	))
	return errors.Join(problems...)
}
