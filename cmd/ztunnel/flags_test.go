// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/cmd/program"
	"github.com/culvert-mesh/culvert/cmd/program/programtest"
	"github.com/culvert-mesh/culvert/ztunnel"
)

// parse is the command line as main reads it, behind one that is good.
func parse(args ...string) (ztunnel.Config, error) {
	return parseWith(append([]string{"-mesh-cidrs", "10.77.0.0/16,fd77::/32", "-workloads", "/w"}, args...))
}

// parseWith does so where args say where workloads come from.
func parseWith(args []string) (ztunnel.Config, error) {
	p := program.New("ztunnel", usage)
	cfg := ztunnel.Config{Level: p.Level}
	define(p.Flags, &cfg)
	err := p.Flags.Parse(append([]string{"-node-name", "node1",
		"-ca-address", "ca:15012", "-ca-root", "/r", "-token-file", "/t"}, args...))
	if err == nil {
		err = complete(&cfg)
	}
	return cfg, err
}

// wrong are values that a flag refuses, and what it says.
var wrong = map[string][][2]string{
	"node-name": {{"Node-1", "did you mean node-1?"}, {"node_1", "did you mean node-1?"}, {"node1.", "did you mean node1?"},
		{"a b", "want at most 253"}, {"-n", "want at most 253"}, {strings.Repeat("n", 254), "want at most 253"}, {"a..b", "want at most 253"}},
	"trust-domain": {{"spiffe://foo", "did you mean foo?"}, {"spiffe://foo/ns/a/sa/b", "did you mean foo?"}, {"Foo", "lower-case"},
		{"foo.", "did you mean foo?"}, {"foo:1", "lower-case"}, {"foo/bar", "lower-case"}, {"https://foo", "lower-case"}, {"spiffe://", "lower-case"}},
	"cluster":        {{"a b", "want at most 253"}, {"a,b", "want at most 253"}, {"a=b", "want at most 253"}, {strings.Repeat("c", 254), "want at most 253"}, {"\u00e4", "want at most 253"}},
	"root-namespace": {{"Istio", "did you mean istio?"}, {"a.b", "want at most 63"}, {"a/b", "want at most 63"}, {"istio_system", "did you mean istio-system?"}},
	"mesh-cidrs": {{"10.77.0.1", "did you mean 10.77.0.1/32?"}, {"fd77::1", "did you mean fd77::1/128?"}, {"10.77.0.1/16", "did you mean 10.77.0.0/16 or 10.77.0.1/32?"},
		{"::ffff:10.77.0.0/112", "did you mean 10.77.0.0/16?"}, {"::ffff:10.77.0.1", "did you mean 10.77.0.1/32?"}, {"::ffff:0.0.0.0/8", "shorter than /96"},
		{"10.77.0.0/33", "no CIDR"}, {"10.0.0.300/8", "no CIDR"}, {"10.77.0.0/16,", "empty entry"}, {"10.77.0.0/16,10.77.0.0/16", "listed twice"},
		{"10.77.0.0/16 10.78.0.0/16", "no CIDR"}, {"pods", "no CIDR"}, {"fe80::1%eth0", "did you mean fe80::1/128?"}, {"10.0/16", "no CIDR"}},
	"workloads":           {{"a\x00b", "NUL"}},
	"foreign-workloads":   {{"a\x00b", "NUL"}},
	"kubeconfig":          {{"a\x00b", "NUL"}, {"in-cluster", "not from both"}, {"k", "not from both"}},
	"untaint":             {{"yes", "want true or false"}, {"true", "-untaint needs both"}},
	"ignore-istio-labels": {{"yes", "want true or false"}, {"1", "want true or false"}},
	"ca-address": {{"ca", "want host:port"}, {":15012", "names no host"}, {"ca:0", "not a port"}, {"ca:70000", "not a port"}, {"ca:http", "not a port"},
		{"https://ca:15012", "did you mean ca:15012?"}, {"fd77::1", "[fd77::1]:PORT"}, {"15012", "as ca.example:15012"}, {"https://ca", "as ca.example:15012"}, {"0.0.0.0:15012", "names no host"}, {"[::ffff:10.0.0.1]:1", "did you mean 10.0.0.1:1?"},
		{"ca_1:15012", "neither an address nor a DNS name"}, {"a b:15012", "neither an address"}, {"ca:-1", "not a port"}, {"ca:015", "not a port"}, {"ca:", "not a port"}},
	"ca-root":        {{"a\x00b", "NUL"}},
	"ca-server-name": {{"ca:15012", "no DNS name"}, {"ca.", "no DNS name"}, {"spiffe://ca", "no DNS name"}, {"*.ca", "no DNS name"}, {"a_b", "no DNS name"}},
	"token-file":     {{"a\x00b", "NUL"}},
	"key-kind":       {{"rsa", "want one of [p256 mldsa65]"}},

	"spire-agent-socket":  {{"a\x00b", "NUL"}},
	"spire-admin-socket":  {{"a\x00b", "NUL"}},
	"workload-api-socket": {{"a\x00b", "NUL"}},
	"ttl": {{"5", "5 has no unit: want 25s to 24h, as 5m or 5h"}, {"30", "24h, as 30s or 30m"}, {"0", "0 has no unit: want 25s to 24h"}, {"5s", "want 25s to 24h"}, {"24h1s", "want 25s to 24h"}, {"-1h", "want 25s to 24h"},
		{"1d", "no duration: want 25s to 24h"}, {"hour", "no duration"}, {"9999999h", "no duration"}, {"0s", "want 25s to 24h"}, {"24.9s", "want 25s to 24h"}},
	"root-file":           {{"a\x00b", "NUL"}},
	"clock-skew":          {{"5", "5 has no unit: want 0s to 15m"}, {"-1s", "want 0s to 15m"}, {"15m1s", "want 0s to 15m"}, {"1h", "want 0s to 15m"}},
	"max-trust-age":       {{"60", "has no unit"}, {"-1s", "want 0s to 24h"}, {"59s", "want 0s for any, or 1m0s at least"}, {"25h", "want 0s to 24h"}},
	"id-at-source":        {{"refuse", "want warn, enforce or off"}, {"Enforce", "want warn, enforce or off"}},
	"id-at-source-exempt": {{"10.0.0.0", "10.0.0.0"}, {"10.0.0.0/8,x", "x"}},
	"tls-records":         {{"kernel", "want own or std"}, {"OWN", "want own or std"}},
	"same-node":           {{"plain", "want local or tunnel"}},
	"bpffs":               {{"a\x00b", "NUL"}},
	"cgroup":              {{"a\x00b", "NUL"}},
	"kubelet-cgroup":      {{"a\x00b", "NUL"}},
	"host-netns":          {{"a\x00b", "NUL"}},
	"exclude-cidrs": {{"0.0.0.0/0", "nothing would be steered"}, {"::/0", "nothing would be steered"}, {"10.0.0.0/8", "holds all of 10.77.0.0/16"},
		{"10.77.0.0/16", "excluded CIDR 10.77.0.0/16 holds all of 10.77.0.0/16"},
		{"10.77.0.0/17,10.77.128.0/17", "the 2 excluded CIDRs from 10.77.0.0/17 to 10.77.128.0/17 together hold all of 10.77.0.0/16"},
		{"fd77:0:8000::/33,fd77::/33", "together hold all of fd77::/32"}, {"192.0.2.1", "did you mean 192.0.2.1/32?"}, {"192.0.2.1/24", "did you mean 192.0.2.0/24"}, {",", "empty entry"}},
	"stand-in-cidrs": {{"240.0.0.1", "did you mean 240.0.0.1/32?"}, {"240.0.0.1/8", "did you mean 240.0.0.0/8"}, {"240.0.0.0/8,241.0.0.0/8", "stand-in"}, {"10.0.0.0/8", "mesh CIDRs"},
		{"240.0.0.0/33", "no CIDR"}, {"::ffff:240.0.0.0/104", "did you mean 240.0.0.0/8?"}, {"0.0.0.0/0", "stand-in"}, {"10.77.1.0/30", "stand-in"}},
	"exclude-ports": {{"0", "not a port"}, {"70000", "not a port"}, {"-1", "not a port"}, {"80-90", "not a port"}, {"http", "not a port"}, {"80,80", "listed twice"},
		{"80,,81", "empty entry"}, {"080", "not a port"}, {"80 81", "not a port"}},
	"state-dir": {{"a\x00b", "NUL"}},
	"own-pod": {{"ztunnel", "want namespace/name"}, {"a/b/c", "want namespace/name"}, {"/b", "namespace"}, {"a/", "name"}, {"A/b", "did you mean a?"},
		{"a/b_c", "did you mean b-c?"}, {"a/ztunnel-", "want at most 253"}},
	"admin-address": {{":15000", "want a loopback address"}, {"0.0.0.0:15000", "want a loopback address"}, {"10.0.0.1:15000", "want a loopback address"},
		{"127.0.0.1", "want host:port, as 127.0.0.1:15000"}, {"15000", "did you mean 127.0.0.1:15000?"}, {"localhost:15000", "want a loopback address"}, {"127.0.0.1:0", "not a port"}, {"[::ffff:127.0.0.1]:1", "did you mean 127.0.0.1:1?"}, {"localhost.:1", "want a loopback address"}},
	"metrics-address": {{"15020", "did you mean :15020?"}, {"node", "as :15020"}, {":15021", "-ready-address :15021"}, {"0.0.0.0:15000", "-admin-address 127.0.0.1:15000"}, {":0", "not a port"}, {":70000", "not a port"}, {"fd77::1", "has no port"}, {"unix:/x", "not a port"}, {"a_b:1", "neither an address"}},
	"ready-address": {{"15021", "did you mean :15021?"}, {"[::]:15020", "-metrics-address :15020 and -ready-address [::]:15020 cannot both"},
		{"localhost:15000", "-admin-address 127.0.0.1:15000"}, {":0", "not a port"}, {":70000", "not a port"}, {"http://:15021", "did you mean :15021?"}},
	"access-sample":   {{"0", "want 1 to 1000000"}, {"-1", "want 1"}, {"1000001", "want 1"}, {"10%", "want 1"}, {"1/10", "want 1"}},
	"access-interval": {{"5", "has no unit"}, {"5s", "want 10s to 24h, or 0s"}, {"25h", "want 0s to 24h"}, {"-1s", "want 0s to 24h"}},
	"otlp-endpoint": {{"collector:4317", "want a URL"}, {"http://", "want a URL"}, {"grpc://collector", "has no port"}, {"grpc://c:1/v1/logs", "gRPC has no path"},
		{"http://u:p@c", "no user"}, {"ftp://c", "want a URL"}},
	"otlp-root":  {{"a\x00b", "NUL"}, {"r.pem", "needs an -otlp-endpoint of https or grpcs"}},
	"drain":      {{"5", "5 has no unit: want 1ms to 24h, as 5ms or 5s or 5m or 5h"}, {"90000", "as 90000ms"}, {"0s", "want 1ms to 24h"}, {"-5s", "want 1ms to 24h"}, {"25h", "want 1ms to 24h"}, {"1us", "want 1ms to 24h"}},
	"log-level":  {{"verbose", "want debug, info, warn or error"}, {"info+2", "want debug"}, {"4", "want debug"}, {"warning", "want debug"}},
	"log-format": {{"xml", "want json or text"}},
	"version":    {{"maybe", "parse error"}},
}

func TestEveryFlagRefusesWhatIsWrong(t *testing.T) {
	p := program.New("ztunnel", usage)
	define(p.Flags, &ztunnel.Config{})
	programtest.RefusesWrongFlags(t, p.Flags, wrong, func(args ...string) error {
		_, err := parse(args...)
		return err
	})
}

func TestFlagsTakeWhatIsRight(t *testing.T) {
	got, err := parse("-mesh-cidrs", "192.0.2.0/24", "-mesh-cidrs", "10.77.0.0/16, fd77::/32", "-ca-address", "[fd77::1]:15012", "-workloads", "w/../v",
		"-ttl", "30s", "-ttl", "90m", "-drain", "24h", "-exclude-ports", "9", "-exclude-ports", "80,443", "-exclude-cidrs", "10.77.9.9/32",
		"-same-node", "tunnel", "-tls-records", "std", "-ignore-istio-labels", "-trust-domain", "td_1.example", "-ready-address", "localhost:1",
		"-own-pod", "culvert-system/ztunnel-x7k2p", "-log-level", "WARN")
	if err != nil {
		t.Fatal(err)
	}
	if got.TTL != 90*time.Minute || got.Drain != 24*time.Hour || !got.SameNodeTunnel || !got.StdTLSRecords || !got.NoIstioLabels ||
		got.TrustDomain != "td_1.example" || got.CAAddress != "[fd77::1]:15012" || got.Level.Level().String() != "WARN" {
		t.Errorf("%+v", got)
	}
	if !strings.HasPrefix(got.Workloads, "/") || !strings.HasSuffix(got.Workloads, "/cmd/ztunnel/v") {
		t.Errorf("a relative path became %s", got.Workloads)
	}
	for text, want := range map[string]string{"in-cluster": "in-cluster", "in-cluster/": "/cmd/ztunnel/in-cluster", "k": "/cmd/ztunnel/k"} {
		if cfg, err := parseWith([]string{"-kubeconfig", text}); err != nil || !strings.HasSuffix(cfg.Kubeconfig, want) {
			t.Errorf("kubeconfig %s became %s, %v", text, cfg.Kubeconfig, err)
		}
	}
	// A list given twice: the later one, not both.
	same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	want := []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd77::/32")}
	if diff := cmp.Diff(want, got.MeshCIDRs, same); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint16{80, 443}, got.ExcludePorts); diff != "" {
		t.Error(diff)
	}
}

// A002-12: a node's knobs of identity are in force as they were set.
func TestTheKnobsOfIdentityAreInForceAsTheyWereSet(t *testing.T) {
	got, err := parse("-trust-domain", "example.org", "-ttl", "24h", "-clock-skew", "20s")
	if err != nil {
		t.Fatal(err)
	}
	if got.TrustDomain != "example.org" || got.TTL != 24*time.Hour || got.ClockSkew != 20*time.Second {
		t.Errorf("trust domain %v, TTL %v, clock skew %v", got.TrustDomain, got.TTL, got.ClockSkew)
	}
}
