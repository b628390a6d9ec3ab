// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/server"
)

// config is what the flags say.
type config struct {
	dir          string                    // required
	workloads    string                    // required
	jwks         string                    // required
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

The certificate authority of a Culvert mesh. It creates its root and issuer in
-dir if that is empty; give DIR/root.pem, and nothing else of it, to the nodes.
A node proves itself by a token that a key in -jwks has signed, and gets
certificates for the ServiceAccounts which -workloads says run on it.

Flags:
`

// define names the flags and says which field each fills.
func define(flags *flag.FlagSet, cfg *config) {
	cfg.trustDomain = spiffeid.RequireTrustDomainFromString("cluster.local")
	flags.StringVar(&cfg.dir, "dir", "", "`directory` of root.pem, root.key, issuer.pem and issuer.key; required")
	flags.StringVar(&cfg.workloads, "workloads", "", "`directory` of Kubernetes YAML to watch: what runs where; required")
	flags.StringVar(&cfg.jwks, "jwks", "", "JWKS `file` with the keys that sign nodes' tokens, read again for each request; required")
	flags.StringVar(&cfg.listen, "listen", ":15012", "`address` for requests of nodes")
	flags.StringVar(&cfg.metrics, "metrics-address", ":15014", "`address` for /metrics and /healthz/ready")
	flags.Func("dns-name", "comma-separated DNS `names` in the CA's own certificate, may be repeated (default culvert-identity.culvert-system.svc)",
		list(&cfg.dnsNames, func(s string) (string, error) { return s, nil }))
	flags.Func("node-accounts", "comma-separated `namespace/name` of ServiceAccounts that speak for their node (default culvert-system/ztunnel)",
		list(&cfg.nodeAccounts, identity.ParseServiceAccount))
	flags.StringVar(&cfg.audience, "audience", server.Audience, "`audience` that a node's token must be made for")
	flags.Func("trust-domain", "SPIFFE trust `domain` (default cluster.local)", func(s string) (err error) {
		cfg.trustDomain, err = spiffeid.TrustDomainFromString(s)
		return err
	})
	flags.DurationVar(&cfg.ttl, "ttl", time.Hour, "lifetime of certificates, unless a node asks for less")
	flags.BoolVar(&cfg.ignoreIstioLabels, "ignore-istio-labels", false, "do not count as in the mesh what only istio.io/dataplane-mode puts there")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
}

func (c *config) validate() error {
	if len(c.dnsNames) == 0 {
		c.dnsNames = []string{"culvert-identity.culvert-system.svc"}
	}
	var problems []error
	for _, required := range []struct{ name, value string }{{"-dir", c.dir}, {"-workloads", c.workloads}, {"-jwks", c.jwks}} {
		if required.value == "" {
			problems = append(problems, fmt.Errorf("%s is required", required.name))
		}
	}
	if c.ttl < ca.MinTTL || c.ttl > ca.MaxTTL {
		problems = append(problems, fmt.Errorf("-ttl is %v, want %v to %v", c.ttl, ca.MinTTL, ca.MaxTTL))
	}
	return errors.Join(problems...)
}

func list[T any](dst *[]T, parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		for field := range strings.SplitSeq(s, ",") {
			v, err := parse(strings.TrimSpace(field))
			if err != nil {
				return err
			}
			*dst = append(*dst, v)
		}
		return nil
	}
}
