// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/cmd/program/programtest"
	"github.com/culvert-mesh/culvert/identity"
)

func parse(args ...string) (config, error) {
	return parseOnly(append([]string{"-dir", "/d", "-workloads", "/w", "-jwks", "/j"}, args...)...)
}

func parseOnly(args ...string) (config, error) {
	p := program.New("culvert-identity", usage)
	var cfg config
	define(p.Flags, &cfg)
	err := p.Flags.Parse(args)
	if err == nil {
		err = cfg.validate()
	}
	return cfg, err
}

// wrong are values that a flag refuses, and what it says.
var wrong = map[string][][2]string{
	"dir":                  {{"a\x00b", "NUL"}},
	"secret":               {{"culvert-ca", "want namespace/name"}, {"a/b", "in a directory (-dir) or in a Secret (-secret), not in both"}},
	"passphrase-file":      {{"a\x00b", "NUL"}},
	"existing-ca":          {{"yes", "want true or false"}},
	"dns-sans":             {{"yes", "want true or false"}},
	"root-configmap":       {{"a/b/c", "want namespace/name"}, {"a/b", "-kubeconfig is required with -root-configmap"}},
	"cluster-trust-bundle": {{"a:b", "lower-case"}, {"culvert", "-root-configmap is required with -cluster-trust-bundle"}},
	"workloads":            {{"a\x00b", "NUL"}},
	"kubeconfig":           {{"a\x00b", "NUL"}, {"in-cluster", "from a directory (-workloads) or from an API server (-kubeconfig), not from both"}},
	"jwks":                 {{"a\x00b", "NUL"}},
	"join-tokens":          {{"a\x00b", "NUL"}},
	"join-secret":          {{"culvert-join", "want namespace/name"}, {"a/b", "-kubeconfig is required with -join-secret"}},
	"deny":                 {{"a\x00b", "NUL"}},
	"deny-configmap":       {{"culvert-deny", "want namespace/name"}, {"a/b", "-kubeconfig is required with -deny-configmap"}},
	"crl":                  {{"a\x00b", "NUL"}},
	"crl-configmap":        {{"istio-ca-crl", "want namespace/name"}, {"a/b", "-kubeconfig is required with -crl-configmap"}},
	"listen":               {{"15012", "did you mean :15012?"}, {"localhost", "as :15020"}, {"127.0.0.1:15014", "-listen 127.0.0.1:15014 and -metrics-address :15014 cannot both"}, {":0", "not a port"}, {":70000", "not a port"}, {"https://:15012", "did you mean :15012?"}, {"a b:1", "neither an address"}},
	"metrics-address":      {{"15014", "did you mean :15014?"}, {":15012", "-listen :15012 and"}, {":0", "not a port"}, {":70000", "not a port"}, {"fd77::1", "has no port"}},
	"admin-address": {{":15013", "want a loopback address"}, {"0.0.0.0:15013", "want a loopback address"}, {"localhost:15013", "want a loopback address"}, {"15013", "did you mean 127.0.0.1:15013?"},
		{"127.0.0.1:0", "not a port"}, {"127.0.0.1:15014", "-metrics-address :15014 and -admin-address 127.0.0.1:15014 cannot both"}},
	"dns-name": {{"10.0.0.1", "is an address"}, {"fd77::1", "is an address"}, {"ca:15012", "no DNS name"}, {"ca.", "no DNS name"}, {"*.ca", "no DNS name"},
		{"a,a", "listed twice"}, {"a,,b", "empty entry"}, {"a_b", "no DNS name"}},
	"node-accounts":  {{"culvert-system", "is not namespace/name"}, {"a/b/c", "a/b/c"}, {"A/b", "A/b"}, {"a/b,a/b", "listed twice"}, {"a/", "a/"}},
	"node-daemonset": {{"a b", "lower-case"}, {"A", "lower-case"}, {"a,a", "listed twice"}, {"a,,b", "empty entry"}, {"ns/a", "lower-case"}, {"*,a", "want names, or * alone"}},
	"issuer":         {{"a\tb", "space"}, {"a b", "space"}},
	"oidc-issuer": {{"http://a.test", "want a URL as https://issuer.example.org"}, {"a.test", "want a URL"}, {"https://a.test?x", "no user, query or fragment"},
		{"https://a.test", "keys come from a file (-jwks) or from their issuer (-oidc-issuer), not from both"}},
	"ledger":             {{"a\x00b", "NUL"}, {"/d", "the ledger (-ledger) and the CA (-dir) cannot share a directory"}},
	"ledger-age":         {{"90", "has no unit"}, {"1m", "want 1h to 87600h"}, {"90d", "no duration"}},
	"ledger-configmap":   {{"culvert-ledger", "want namespace/name"}, {"a/b", "-kubeconfig is required with -ledger-configmap"}, {"a/b", "-ledger is required with -ledger-configmap"}},
	"ledger-checkpoints": {{"a\x00b", "NUL"}, {"/mnt/checkpoints", "-ledger is required with -ledger-checkpoints"}},
	"ledger-size":        {{"1024", "1024 has no unit: want 1Mi to 1Ti"}, {"1Ki", "want 1Mi to 1Ti"}, {"2Ti", "want 1Mi to 1Ti"}, {"1GB", "want 1Mi to 1Ti"}, {"-1Gi", "want 1Mi to 1Ti"}, {"99999999999Gi", "want 1Mi to 1Ti"}},
	"oidc-ca":            {{"a\x00b", "NUL"}, {"/roots.pem", "-oidc-issuer is required with -oidc-ca"}},
	"max-token-lifetime": {{"24", "24 has no unit"}, {"1m", "want 10m to 8760h"}, {"9000h", "want 10m to 8760h"}},
	"audience":           {{"a\tb", "space"}, {"a b", "space"}},
	"trust-domain":       {{"spiffe://foo", "did you mean foo?"}, {"Foo", "lower-case"}, {"foo.", "did you mean foo?"}, {"foo/bar", "lower-case"}},
	"ttl": {{"5", "5 has no unit: want 25s to 24h, as 5m or 5h"}, {"5s", "want 25s to 24h"}, {"25h", "want 25s to 24h"}, {"-1h", "want 25s to 24h"}, {"0s", "want 25s to 24h"},
		{"1d", "no duration"}},
	"key-kind":             {{"P256", "want one of [p256 mldsa65]"}},
	"clock-skew":           {{"5", "5 has no unit: want 0s to 15m"}, {"-1s", "want 0s to 15m"}, {"15m1s", "want 0s to 15m"}, {"1h", "want 0s to 15m"}},
	"ignore-istio-labels":  {{"yes", "want true or false"}},
	"taint-after":          {{"60", "has no unit"}, {"-1s", "want 0s to 24h"}, {"1s", "want 0s for never, or 10s to 24h"}, {"1m", "-kubeconfig is required with -taint-after"}},
	"vault":                {{"vault.test", "want https://HOST:PORT"}, {"http://vault.test", "a token passes there"}, {"ftp://vault.test", "want https://"}, {"https://vault.test", "or -vault-role with -vault-jwt-file, is required with -vault"}},
	"vault-mount":          {{"/", "want the path of a mount"}, {"a/../b", "want the path of a mount"}},
	"vault-ca":             {{"a\x00b", "NUL"}, {"/ca.pem", "-vault is required with -vault-token-file"}},
	"vault-token-file":     {{"a\x00b", "NUL"}, {"/token", "-vault is required with -vault-token-file"}},
	"vault-role":           {{"a b", "space"}, {"r", "-vault is required with"}},
	"vault-auth-mount":     {{"/", "want the path of a mount"}},
	"vault-jwt-file":       {{"a\x00b", "NUL"}, {"/jwt", "-vault is required with"}},
	"vault-issuer-ttl":     {{"90", "has no unit"}, {"1m", "want 1h to 87600h"}, {"90d", "no duration"}},
	"federation":           {{"a\x00b", "NUL"}},
	"federation-state":     {{"a\x00b", "NUL"}, {"/s", "-federation is required with -federation-state"}},
	"bundle-endpoint":      {{"15016", "did you mean :15016?"}, {":0", "not a port"}, {":70000", "not a port"}},
	"bundle-endpoint-cert": {{"a\x00b", "NUL"}, {"/c", "-bundle-endpoint-cert and -bundle-endpoint-key go together"}},
	"bundle-endpoint-key":  {{"a\x00b", "NUL"}, {"/k", "-bundle-endpoint-cert and -bundle-endpoint-key go together"}},
	"bundle-refresh-hint":  {{"5", "has no unit"}, {"1s", "want 5s to 1h"}, {"2h", "want 5s to 1h"}},
	"root-namespace":       {{"Istio", "did you mean istio?"}, {"a/b", "want at most 63"}},
	"policy-status":        {{"policies", "want namespace/name"}, {"a/b", "-kubeconfig is required with -policy-status"}},
	"log-level":            {{"verbose", "want debug, info, warn or error"}},
	"log-format":           {{"xml", "want json or text"}},
	"version":              {{"maybe", "parse error"}},
}

func TestEveryFlagRefusesWhatIsWrong(t *testing.T) {
	p := program.New("culvert-identity", usage)
	define(p.Flags, new(config))
	programtest.RefusesWrongFlags(t, p.Flags, wrong, func(args ...string) error {
		_, err := parse(args...)
		return err
	})
}

func TestASecretNeedsAnAPIServerAndAConfigMap(t *testing.T) {
	_, err := parseOnly("-secret", "a/b", "-workloads", "/w", "-jwks", "/j")
	if err == nil || !strings.Contains(err.Error(), "-root-configmap is required with -secret") {
		t.Error(err)
	}
	if _, err := parseOnly("-secret", "a/b", "-root-configmap", "a/c", "-kubeconfig", "in-cluster"); err != nil {
		t.Error(err)
	}
}

func TestALaterListReplacesTheEarlierAndTheDefault(t *testing.T) {
	got, err := parse("-dns-name", "a.test", "-dns-name", "b.test, c.test", "-node-accounts", "kube-system/agent")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b.test", "c.test"}, got.dnsNames); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]identity.ServiceAccount{{Namespace: "kube-system", Name: "agent"}}, got.nodeAccounts); diff != "" {
		t.Error(diff)
	}
}

// Numbers of a file and of a ConfigMap cannot be compared: together, nodes would miss changes.
func TestTheDenySetAndRevocationListsComeFromOneKindOfPlace(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-deny", "/d", "-crl", "/c"}, ""},
		{[]string{"-deny-configmap", "a/d", "-crl-configmap", "a/c"}, ""},
		{[]string{"-deny-configmap", "a/d", "-crl", "/c"}, "(-deny-configmap) and revocation lists in a file (-crl) do not go together: want -crl-configmap"},
		{[]string{"-deny", "/d", "-crl-configmap", "a/c"}, "(-deny) and revocation lists in a ConfigMap (-crl-configmap) do not go together: want -deny-configmap"},
	} {
		_, err := parseOnly(append(tc.args, "-dir", "/ca", "-kubeconfig", "in-cluster")...)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v", tc.args, err)
		}
	}
}
