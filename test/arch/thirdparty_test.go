// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"slices"
	"strings"
	"testing"
)

// anywhere lets a third party be imported by every package.
const anywhere = "*"

// thirdParties says which packages may import what is not ours; the longest
// matching path decides, "dir/*" is every package below dir. Tests are free,
// but a module that only tests need is listed with no package.
var thirdParties = []struct {
	path    string
	allowed []string
	why     string
}{
	{"github.com/cilium/ebpf", []string{"ztunnel/redirect"},
		"redirect is the one Go twin of bpf/"},
	{"golang.org/x/net", []string{"ztunnel/hbone", "ztunnel/hbone/*", "bench/reference"},
		"the engine needs hpack; http2.Transport and Server are for the benchmark's reference, not for the data path"},
	{"google.golang.org/grpc", []string{"identity/server", "identity/identityv1", "identity/process", "ztunnel/certs", "ztunnel/spire", "ztunnel/spire/*", "ztunnel/workloadapi", "ztunnel/source/xds"},
		"gRPC is how certificates are asked for, and nothing else"},
	{"google.golang.org/genproto/googleapis/rpc", []string{"identity/server", "ztunnel/certs"},
		"a refusal says when to come again by google.rpc.RetryInfo, which gRPC's clients know"},
	{"google.golang.org/protobuf/encoding/protowire", []string{"ztunnel/otlp", "identity/server"},
		"OTLP's messages are protobuf, a dozen fields of them; the CA looks at the wire, too"},
	{"google.golang.org/protobuf", []string{"identity/server", "identity/identityv1", "identity/process", "ztunnel/certs", "ztunnel/spire/*", "ztunnel/source/xds"},
		"protobuf comes with gRPC"},
	{"github.com/spiffe/go-spiffe/v2/spiffeid", []string{anywhere}, ""},
	{"github.com/spiffe/go-spiffe/v2", []string{"ztunnel/certs", "ztunnel/spire", "ztunnel/workloadapi", "identity/ca", "identity/federation", "identity/server"},
		"only spiffeid is vocabulary; SVIDs and bundles are verified in certs and made in identity/ca; the Workload API is spoken to SPIRE and to pods, bundles are exchanged with other trust domains"},
	{"go.step.sm/crypto", []string{"signer"},
		"keys in an HSM or a cloud's KMS are those of a program of its own"},
	{"github.com/miekg/pkcs11", []string{"signer"},
		"a PIN that a token refuses is known by PKCS#11's own code alone; go.step.sm/crypto has the module already"},
	{"go.etcd.io/etcd", []string{"test/kubernetes/kubeall"},
		"etcd is part of the real cluster, and of nothing else"},
	{"github.com/coredns/coredns", []string{"test/kubernetes/coredns"},
		"the test cluster resolves names by the real CoreDNS"},
	{"github.com/cert-manager/cert-manager", []string{"test/kubernetes/certmanager"},
		"the test cluster's Secrets are kept by the real cert-manager"},
	{"github.com/hashicorp", []string{"test/kubernetes/vault/empty/*"},
		"tests speak to Vault itself, which is built in a module of its own"},
	{"github.com/armon/go-metrics", []string{"test/kubernetes/vault/empty/*"},
		"as github.com/hashicorp"},
	{"k8s.io", []string{"test/kubernetes/kubeall"},
		"Kubernetes' own programs are part of the real cluster, and of nothing else"},
	{"github.com/spf13/cobra", []string{"cli", "test/kubernetes/kubeall"},
		"the operator's program, and Kubernetes' own, are cobra's commands; others have flags alone"},
	{"github.com/spf13/pflag", []string{"cli"},
		"cobra's flags are pflag's"},
	{"k8s.io/streaming", []string{"cli/fleet", "cli/clitest"},
		"a port-forward is streams in one connection, and its errors are of this package"},
	{"filippo.io/age", []string{"cli/custody"},
		"keys of a CA leave it only encrypted"},
	{"k8s.io/client-go", []string{"ztunnel/source/kube", "ztunnel/report", "identity/server", "identity/ca/cluster", "identity/taint", "identity/verdict", "identity/lease", "cli/*", "test/kubernetes/kubeall"},
		"a Kubernetes client is for who watches the cluster, reviews tokens, keeps the CA in a Secret, taints Nodes, tells users of their pods or policies, or is an operator's"},
	{"k8s.io/klog/v2", []string{"ztunnel/source/kube", "identity/ca/cluster", "identity/taint", "identity/verdict"},
		"client-go logs by it; it is imported to be silenced"},
	{"k8s.io/utils/clock", []string{"ztunnel/source/kube"},
		"client-go sleeps by it; it is imported to be woken up"},
	{"k8s.io/api", []string{"ztunnel/source", "ztunnel/source/*", "ztunnel/report", "identity/server", "identity/ca/cluster", "identity/taint", "identity/verdict", "identity/lease", "cli", "cli/*", "test/lab", "test/lab/*"},
		"Kubernetes types stop at the source"},
	{"k8s.io/apimachinery", []string{"ztunnel/source", "ztunnel/source/*", "ztunnel/report", "identity/server", "identity/ca/cluster", "identity/taint", "identity/verdict", "identity/lease", "cli", "cli/*", "test/lab", "test/lab/*"},
		"Kubernetes types stop at the source"},
	{"sigs.k8s.io/yaml", []string{"strictyaml", "ztunnel/source", "ztunnel/source/*", "identity/server", "identity/deny", "identity/federation", "cli", "test/lab", "test/lab/*"},
		"YAML is read by sources and written by the lab"},
	{"go.yaml.in/yaml/v3", []string{"ztunnel/source/file", "strictyaml"},
		"keys of a map are judged as they are written, and documents counted, which sigs.k8s.io/yaml does not show"},
	{"sigs.k8s.io/json", []string{"ztunnel/source/file", "strictyaml"},
		"objects are decoded as the API server does, in one pass"},
	{"github.com/youmark/pkcs8", []string{"identity/ca", "cli/clitest"},
		"operators encrypt the keys of their CA (PKCS#8 with PBES2), which the standard library does not read"},
	{"github.com/go-jose/go-jose/v4", []string{"identity/server", "test/lab", "test/lab/*"},
		"tokens are verified by the CA and minted by the lab"},
	{"github.com/vishvananda/netlink", []string{"ztunnel/redirect", "test/lab", "test/lab/*", "test/kubernetes/cluster"},
		"pods' rules and routes are redirect's"},
	{"github.com/vishvananda/netns", []string{"ztunnel/redirect", "test/lab", "test/lab/*", "test/kubernetes/cluster"},
		"netlink's handles take its type; namespaces are entered by ztunnel/netns"},
	{"github.com/containernetworking/cni", []string{"cni", "cni/install", "test/lab", "test/lab/*"},
		"the plugin speaks CNI, the lab calls it"},
	{"github.com/prometheus/client_golang", []string{"ztunnel/metrics", "identity/server"},
		"leaf packages expose Stats; metrics turns them into series"},
	{"github.com/prometheus/client_model", nil, "only tests read metrics back"},
	{"github.com/prometheus/common", nil, "only tests read metrics back"},
	{"github.com/prometheus/prometheus", nil, "only test/alerts evaluates rules"},
	{"github.com/fsnotify/fsnotify", []string{"ztunnel/source/file", "identity/ca", "identity/server", "identity/deny", "cni/install"},
		"no hot reload but of files named in a Config"},
	{"gonum.org/v1/plot", []string{"bench"},
		"a library that is looked after draws the benchmark's charts"},
	{"golang.zx2c4.com/wireguard", []string{"bench/reference"},
		"WireGuard is what the benchmark compares with"},
	{"golang.org/x/crypto/cryptobyte", []string{"identity/ca"},
		"the CA reads CSRs and writes leaves in DER, as crypto/x509 does, and only what it needs of them"},
	{"golang.org/x/sys", []string{anywhere}, ""},
	{"golang.org/x/sync", []string{anywhere}, ""},
	{"golang.org/x/term", []string{"cli"},
		"what is shown again and again replaces itself on a terminal, in as many lines as that has"},
	{"github.com/google/go-cmp", nil, "only tests compare with go-cmp"},
	{"github.com/rogpeppe/go-internal", nil, "only tests use testscript"},
}

func TestThirdPartiesAreConfined(t *testing.T) {
	for name, p := range listPackages(t) {
		for _, path := range outside(p.Imports) {
			if why := confined(name, path); why != "" {
				t.Errorf("%s imports %s: %s", name, path, why)
			}
		}
	}
}

func TestConfinementIsByTheLongestPath(t *testing.T) {
	for _, tc := range []struct {
		name, path string
		ok         bool
	}{
		{"ztunnel/redirect", "github.com/cilium/ebpf/link", true},
		{"ztunnel", "github.com/cilium/ebpf", false},
		{"ztunnel/policy", "github.com/spiffe/go-spiffe/v2/spiffeid", true},
		{"ztunnel/policy", "github.com/spiffe/go-spiffe/v2/svid/x509svid", false},
		{"ztunnel/source/file", "sigs.k8s.io/yaml", true},
		{"ztunnel", "example.com/unheard/of", false},
		{"ztunnel", "github.com/google/go-cmp/cmp", false},
	} {
		if why := confined(tc.name, tc.path); (why == "") != tc.ok {
			t.Errorf("%s imports %s: %q, want allowed=%v", tc.name, tc.path, why, tc.ok)
		}
	}
}

// confined says why name must not import path, or "".
func confined(name, path string) string {
	best := -1
	for i, third := range thirdParties {
		if path != third.path && !strings.HasPrefix(path, third.path+"/") {
			continue
		}
		if best < 0 || len(third.path) > len(thirdParties[best].path) {
			best = i
		}
	}
	if best < 0 {
		return "a new dependency: list it in test/arch and give the reason in the commit"
	}
	third := thirdParties[best]
	for _, pattern := range third.allowed {
		dir, wild := strings.CutSuffix(pattern, "/*")
		if pattern == anywhere || pattern == name || wild && strings.HasPrefix(name, dir+"/") {
			return ""
		}
	}
	if len(third.allowed) == 0 {
		return third.why
	}
	return third.why + " (allowed in " + strings.Join(slices.Sorted(slices.Values(third.allowed)), ", ") + ")"
}
