// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-mesh/culvert/cli"
	"github.com/culvert-mesh/culvert/cli/clitest"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	at := func(name string) func() {
		return func() {
			args := append([]string{name}, os.Args[1:]...)
			now := clitest.Now
			if text := os.Getenv("NOW"); text != "" {
				if err := now.UnmarshalText([]byte(text)); err != nil {
					panic(err)
				}
			}
			os.Exit(cli.Run(context.Background(), cli.Process{
				Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: func() time.Time { return now },
			}))
		}
	}
	testscript.Main(m, map[string]func(){"culvert": at("culvert"), "kubectl-culvert": at("kubectl-culvert"), "kubectl_complete-culvert": at("kubectl_complete-culvert")})
}

const (
	web = "spiffe://cluster.local/ns/shop/sa/web"
	db  = "spiffe://cluster.local/ns/shop/sa/db"
	pay = "spiffe://cluster.local/ns/bank/sa/pay"
)

// Each script has a mesh: two nodes at $NODE1 and $NODE2, nobody at $DEAD, a CA at $CA and
// $CAADMIN, and one at $REKEYING that re-keys its root, whose files are in $CADIR, and an age key in $AGEKEY, to $AGE1.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", UpdateScripts: *update, Setup: func(e *testscript.Env) error {
		return paper(t, e)
	}})
}

func paper(t *testing.T, e *testscript.Env) error {
	now, day := clitest.Now, clitest.Day
	root := clitest.Authority("culvert root 5f2c", nil, now.Add(-300*day), now.Add(3350*day))
	issuer := clitest.Authority("culvert issuer", root, now.Add(-300*day), now.Add(65*day))
	old := clitest.Authority("culvert root 0001", nil, now.Add(-3630*day), now.Add(20*day))
	serving := issuer.Server(now.Add(-6*time.Hour), now.Add(18*time.Hour), "culvert-identity.culvert-system.svc")
	leaf := func(id string, old, left time.Duration) *clitest.Signer {
		return issuer.Leaf(id, now.Add(-old), now.Add(left))
	}
	one := clitest.Ztunnel{
		Node: "node1",
		Held: []clitest.Held{
			{ID: web, Leaf: leaf(web, 20*time.Minute, 40*time.Minute)},
			{ID: db, Leaf: leaf(db, 50*time.Minute, 10*time.Minute), State: "Available"},
		},
		Policies: map[string]any{"RootNamespace": "istio-system", "PeerAuthentications": []any{
			map[string]any{"Namespace": "istio-system", "Name": "default", "Mode": "STRICT"},
			map[string]any{"Namespace": "shop", "Name": "db", "Mode": "PERMISSIVE", "Selector": map[string]string{"app": "db"}},
		}},
		Workloads: []any{
			workload("shop", "web-1", "web", map[string]any{"Meshed": true}), workload("shop", "web-2", "web", map[string]any{"Meshed": true}),
			workload("shop", "db-1", "db", map[string]any{"Meshed": true}), workload("shop", "job", "job", map[string]any{"Undecided": true}),
			workload("kube-system", "dns-1", "dns", nil), workload("shop", "log-1", "log", map[string]any{"Unsteerable": "hostNetwork"}),
		},
		Pods: map[string]any{
			"uid-web-1": pod("shop", "web-1", web, "valid", ""),
			"uid-web-2": pod("shop", "web-2", web, "valid", ""),
			"uid-db-1":  pod("shop", "db-1", db, "overdue", "rpc error: Unavailable"),
		},
		More: map[string]any{"bundle": map[string]any{"generation": 7, "sha256": setOf(root), "roots": 1, "heard": 0, "connected": true, "since": now.Add(-time.Hour)}},
	}
	end := func(namespace, name, id string) map[string]any {
		return map[string]any{"namespace": namespace, "workload": name, "identity": id}
	}
	one.More["edges"] = []any{
		map[string]any{"direction": "outbound", "source": end("shop", "web", web), "destination": end("shop", "db", db), "service": "shop/db", "port": 5432, "secured": true,
			"opened": 5, "open": 1, "refused": map[string]int{"denied": 2}, "bytesSent": 1000, "bytesRecv": 2000, "last": now.Add(-time.Minute)},
		map[string]any{"direction": "inbound", "source": end("shop", "web", web), "destination": end("shop", "db", db), "service": "shop/db", "port": 5432, "secured": true,
			"opened": 3, "last": now},
		map[string]any{"direction": "inbound", "source": end("", "", ""), "destination": end("shop", "db", ""), "port": 5432, "reason": "permissive", "opened": 1, "last": now},
		map[string]any{"direction": "inbound", "source": end("", "", pay), "destination": end("shop", "db", db), "port": 5432, "secured": true, "opened": 1, "last": now},
		map[string]any{"direction": "others", "source": end("", "", ""), "destination": end("", "", ""), "opened": 9, "last": now},
	}
	one.Pods["uid-web-1"].(map[string]any)["connections"] = map[string]any{
		"inbound": []any{map[string]any{"direction": "inbound", "path": "passthrough", "protocol": "TCP", "src": "192.0.2.1:555", "originalDst": "10.0.0.7:80", "actualDst": "10.0.0.7:80",
			"plaintext": "permissive", "bytesSent": 5, "bytesRecv": 7, "age": "3s", "tcp": map[string]any{"rttMicroseconds": 900}}},
		"outbound": []any{map[string]any{"direction": "outbound", "path": "tunnel", "protocol": "HBONE", "src": "10.0.0.7:4711", "originalDst": "10.96.0.10:5432", "actualDst": "10.0.0.8:15008",
			"srcIdentity": web, "dstIdentity": db, "bytesSent": 100, "bytesRecv": 200, "age": "1m30s",
			"tunnel": map[string]any{"cipher": "TLS_AES_128_GCM_SHA256", "group": "X25519MLKEM768", "peerSerial": "2a", "until": now.Add(time.Hour), "tcp": map[string]any{"rttMicroseconds": 120, "retransmitted": 1}}}},
		"omitted": 3,
	}
	told := func(kind string, more map[string]any) map[string]any {
		e := map[string]any{
			"time": now, "event": kind, "direction": "inbound", "secured": true, "service": "shop/db", "path": "tunnel",
			"source":      map[string]any{"namespace": "shop", "workload": "web", "pod": "web-1", "identity": web, "address": "10.0.0.7:4711"},
			"destination": map[string]any{"namespace": "shop", "workload": "db", "pod": "db-1", "identity": db, "address": "10.0.0.8:5432"},
		}
		maps.Copy(e, more)
		return e
	}
	one.Events = []any{
		told("open", nil), told("close", map[string]any{"result": "ok", "bytesSent": 100, "bytesRecv": 200, "duration": "1.5s"}),
		told("refused", map[string]any{"result": "denied", "policy": "AuthorizationPolicy shop/db", "secured": false, "plaintext": "outside", "source": map[string]any{"address": "192.0.2.1:9"}}),
		map[string]any{"time": now, "event": "enrolled", "pod": "shop/web-2", "identity": web}, map[string]any{"time": now, "event": "policy_changed"},
		map[string]any{"time": now, "event": "repaired", "what": "link", "pod": "shop/\x1b[31mweb-2"}, map[string]any{"time": now, "event": "dropped", "count": 7, "news": true},
	}
	one.More["services"] = []any{
		map[string]any{"namespace": "shop", "name": "db", "vips": []string{"/10.96.0.10", "/fd00::10"}, "ports": map[string]int{"5432": 5432, "80": 0},
			"endpoints": map[string]any{
				"192.0.2.8": map[string]any{"port": map[string]int{"5432": 5432, "80": 8080}, "addresses": []string{"192.0.2.8"}},
				"192.0.2.9": map[string]any{"port": map[string]int{"5432": 5432}, "addresses": []string{"192.0.2.9"}, "leaving": true},
			}},
		map[string]any{"namespace": "bank", "name": "all", "vips": []string{}, "headless": true},
	}
	one.Pods["uid-web-2"].(map[string]any)["connections"] = []any{} // as an older one lists them
	two := clitest.Ztunnel{
		Node: "node2",
		Held: []clitest.Held{
			{ID: pay, Leaf: leaf(pay, 2*time.Hour, -time.Hour), State: "Unavailable: no answer of the CA"},
			{ID: web, State: "Initializing"},
		},
	}
	ca := map[string]any{
		"trustDomain": "cluster.local",
		"bundle":      map[string]any{"generation": 7, "sha256": "set", "roots": []any{map[string]any{"pem": string(root.PEM())}}},
		"federation": map[string]any{"domains": []any{
			map[string]any{"trustDomain": "other.example", "url": "https://other.example:15016/", "profile": "https_spiffe", "sequence": 12, "roots": 2, "ageSeconds": 41.2, "refreshSeconds": 300},
			map[string]any{"trustDomain": "web.example", "url": "https://web.example/", "profile": "https_web", "roots": 0, "ageSeconds": 7, "refreshSeconds": 300, "failures": 3, "problem": "https://web.example/ answers 502 Bad Gateway"},
		}},
		"nodes":    []any{map[string]any{"name": "node1", "lastRequest": now.Add(-time.Minute), "lastResult": "ok"}},
		"issuance": map[string]any{"ttlSeconds": 3600, "dnsNames": []string{"culvert-identity.culvert-system.svc"}},
	}
	rekeying := maps.Clone(ca)
	rekeying["rekey"] = map[string]any{"state": "prepare", "since": now.Add(-5 * time.Minute), "waits": []any{map[string]any{"kind": "node", "name": "node2", "why": "it does not answer"}}}
	other := one
	other.More = nil // an older one
	other.Node, other.Held = "node3", []clitest.Held{{ID: web, Leaf: leaf(web, 20*time.Minute, 40*time.Minute), Roots: []*clitest.Signer{root, old}}}
	good := other
	good.Node, good.Pods = "node4", nil
	lacking := one
	lacking.Pods = map[string]any{"uid-web-1": pod("shop", "web-1", web, "valid", ""), "uid-db-1": pod("shop", "db-1", db, "valid", "")}
	guarded := good
	guarded.Node = "node1"
	guarded.Policies = map[string]any{"RootNamespace": "istio-system", "AuthorizationPolicies": []any{
		map[string]any{"Namespace": "shop", "Name": "web-only", "Action": "ALLOW", "Rules": []any{[]any{[]any{map[string]any{"Principals": []string{"cluster.local/ns/shop/sa/web"}}}}}},
	}}
	guarded.More = map[string]any{"networkPolicies": map[string]any{
		"policies": []any{map[string]any{"Namespace": "shop", "Name": "closed", "Pods": []any{}, "Ingress": map[string]any{"Isolates": true}}},
		"modes":    map[string]any{"shop": "warn"},
	}}
	elsewhere := guarded
	elsewhere.Node = "node7"
	differs := one
	differs.Node, differs.Workloads = "node8", slices.Clone(one.Workloads.([]any))
	differs.Workloads.([]any)[2] = workload("shop", "db-1", "db", map[string]any{"Meshed": true, "ID": web})
	silent := good
	silent.Node, silent.CA = "node9", map[string]any{}
	for name, value := range map[string]string{
		"NODE1": clitest.Serve(t, one), "NODE2": clitest.Serve(t, two), "NODE3": clitest.Serve(t, other), "NODE4": clitest.Serve(t, good), "LACKING": clitest.Serve(t, lacking), "SILENT": clitest.Serve(t, silent), "GUARDED": clitest.Serve(t, guarded), "DIFFERS": clitest.Serve(t, differs), "GUARDED7": clitest.Serve(t, elsewhere), "NODE5": clitest.Serve(t, clitest.Ztunnel{Node: "node5", Held: []clitest.Held{{ID: web, State: "Initializing"}}}), "DEAD": "127.0.0.1:1",
		"CA": clitest.ServeTLS(t, serving), "CAADMIN": clitest.Serve(t, answer(ca)), "REKEYING": clitest.Serve(t, answer(rekeying)),
		"CADIR": "ca", "AGEKEY": filepath.Join(e.WorkDir, "age.key"),
		"GROWING": clitest.Serve(t, growing()),
	} {
		e.Setenv(name, value)
	}
	if err := lay(filepath.Join(e.WorkDir, "ca"), clitest.Files(root, issuer)); err != nil {
		return err
	}
	for dir, keep := range map[string][]string{"partial": {"root.pem", "issuer.pem"}, "offline": {"root.pem", "issuer.pem", "issuer.key"}} {
		files := map[string][]byte{}
		for _, name := range keep {
			files[name] = clitest.Files(root, issuer)[name]
		}
		if err := lay(filepath.Join(e.WorkDir, dir), files); err != nil {
			return err
		}
	}
	// The linter goes by the clock of the machine: $REAL.
	today := time.Now().Truncate(time.Second).UTC()
	e.Setenv("REAL", today.Format(time.RFC3339))
	upstream := clitest.Authority("upstream root", nil, today.Add(-day), today.Add(3000*day))
	parent := clitest.Parent("parent", upstream, today.Add(-day), today.Add(2000*day))
	below := clitest.Authority("issuer of cert-manager", parent, today.Add(-day), today.Add(300*day))
	sealed := clitest.CertManager(parent, below)
	sealed["tls.key"] = below.SealedPEM("sesame")
	own := clitest.Authority("own root", nil, today.Add(-day), today.Add(3000*day))
	sealedRoot := clitest.Files(own, clitest.Authority("culvert issuer", own, today.Add(-day), today.Add(300*day)))
	sealedRoot["root.key"] = own.SealedPEM("sesame")
	for dir, files := range map[string]map[string][]byte{
		"certmanager": clitest.CertManager(parent, below), "sealed": sealed, "sealedroot": sealedRoot,
		"today": clitest.Files(own, clitest.Authority("culvert issuer", own, today.Add(-day), today.Add(300*day))),
	} {
		if err := lay(filepath.Join(e.WorkDir, dir), files); err != nil {
			return err
		}
	}
	e.Setenv("NODE6", clitest.Serve(t, clitest.Ztunnel{Node: "node6", Held: []clitest.Held{
		{ID: web, Leaf: below.Leaf(web, today.Add(-20*time.Minute), today.Add(40*time.Minute)), Roots: []*clitest.Signer{parent}},
	}}))
	if err := layPair(t, e); err != nil {
		return err
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	e.Setenv("AGE1", key.Recipient().String())
	return os.WriteFile(filepath.Join(e.WorkDir, "age.key"), []byte(key.String()+"\n"), 0o600)
}

// growing is a node that counts ten connections more at each look, one of them refused.
func growing() http.Handler {
	var looks atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 10 * looks.Add(1)
		clitest.Ztunnel{Node: "node7", More: map[string]any{"version": "v1.2.3", "edges": []any{map[string]any{
			"direction": "outbound", "source": map[string]any{"namespace": "shop", "workload": "web"}, "destination": map[string]any{"namespace": "shop", "workload": "db"},
			"service": "shop/db", "secured": true, "opened": n, "refused": map[string]any{"denied": n / 10}, "bytesSent": n * 1000, "bytesRecv": n * 1000000,
		}}}}.ServeHTTP(w, r)
	})
}

func workload(namespace, name, owner string, more map[string]any) map[string]any {
	w := map[string]any{"UID": "uid-" + name, "Namespace": namespace, "Name": name, "Owner": owner, "Node": "node1", "Labels": map[string]string{"app": owner}, "ID": "spiffe://cluster.local/ns/" + namespace + "/sa/" + owner}
	maps.Copy(w, more)
	return w
}

func pod(namespace, name, id, state, problem string) map[string]any {
	return map[string]any{
		"state": "enrolled", "identity": id, "certificate": map[string]any{"state": state, "error": problem},
		"sandbox": map[string]any{"namespace": namespace, "name": name},
	}
}

func answer(v any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
}

func lay(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// setOf is how the CA names a set of one root: SHA-256 over that of the certificate.
func setOf(root *clitest.Signer) string {
	one := sha256.Sum256(root.Cert.Raw)
	all := sha256.Sum256(one[:])
	return hex.EncodeToString(all[:])
}
