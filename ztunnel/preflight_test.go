// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// certificate returns one as PEM, with its key.
func certificate(t *testing.T, isCA bool, from, until time.Time) (cert, key []byte) {
	t.Helper()
	template := &x509.Certificate{NotBefore: from, NotAfter: until, IsCA: isCA, BasicConstraintsValid: true}
	own := certstest.Mint(template, certstest.NewKey(elliptic.P256()), nil)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(own.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func TestARootThatVerifiesNobodyIsRefusedAtStart(t *testing.T) {
	now := time.Now()
	good, key := certificate(t, true, now.Add(-time.Hour), now.Add(time.Hour))
	expired, _ := certificate(t, true, now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, _ := certificate(t, true, now.Add(time.Hour), now.Add(2*time.Hour))
	leaf, _ := certificate(t, false, now.Add(-time.Hour), now.Add(time.Hour))
	path := filepath.Join(t.TempDir(), "root.pem")
	for _, tc := range []struct {
		name string
		text []byte
		want string // "" is good
	}{
		{"good", good, ""},
		{"empty", nil, "is not PEM"},
		{"text", []byte("hello"), "is not PEM"},
		{"key", key, "holds no certificate but a PRIVATE KEY"},
		{"leaf", leaf, "which is of no CA"},
		{"expired", expired, "holds a root that expired on 20"},
		{"early", early, "holds a root that is not valid before 20"},
		{"broken", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "cannot be read"},
		{"a rotation", append(expired, good...), ""},
		{"CRLF", []byte(strings.ReplaceAll(string(good), "\n", "\r\n")), ""},
	} {
		if err := os.WriteFile(path, tc.text, 0o600); err != nil {
			t.Fatal(err)
		}
		err := rootFile("ca-root", path, now)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "-ca-root: "+path+" ") || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	if err := rootFile("ca-root", path+"x", now); err == nil || !strings.HasPrefix(err.Error(), "-ca-root: open "+path+"x: no such file") {
		t.Errorf("no file: %v", err)
	}
	if err := rootFile("ca-root", filepath.Dir(path), now); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	all := uint64(1<<(unix.CAP_LAST_CAP+1) - 1)
	for _, c := range capabilities {
		text := fmt.Sprintf("Name:\tztunnel\nCapPrm:\t%016x\nCapEff:\t%016x\nCapBnd:\t%016x\n", all, all&^(1<<c.bit), all)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := haveCapabilities(path); err == nil || err.Error() != fmt.Sprintf("missing capabilities: %s (%s)", c.name, c.needs) {
			t.Errorf("without %s: %v", c.name, err)
		}
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "Name:\tztunnel\nCapEff:\t%016x\n", all), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := haveCapabilities(path); err != nil {
		t.Errorf("with all: %v", err)
	}
}

func TestPathsOfTheWrongKindAreRefusedByFlag(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root.pem")
	pem, _ := certificate(t, true, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err := os.WriteFile(root, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	good := Config{Workloads: dir, StateDir: dir, BPFFS: none, Cgroup: dir, TokenFile: none, CARoot: root}
	if err := good.files(); err != nil {
		t.Errorf("what is right: %v", err)
	}
	bad := Config{Workloads: file, StateDir: file, BPFFS: file, Cgroup: file, KubeletCgroup: file, TokenFile: dir, CARoot: dir}
	err := bad.files()
	for _, flag := range []string{"workloads", "state-dir", "bpffs", "cgroup", "kubelet-cgroup"} {
		if want := "-" + flag + ": " + file + " is not a directory"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if want := "-token-file: " + dir + " is a directory"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if err := (Config{Workloads: none, StateDir: dir, Cgroup: none, TokenFile: none, CARoot: root}).files(); err == nil ||
		!strings.Contains(err.Error(), "-workloads: stat "+none) || !strings.Contains(err.Error(), "-cgroup: stat "+none) {
		t.Errorf("what must exist and does not: %v", err)
	}
	lost := good
	if lost.Workloads, lost.Kubeconfig = "", none; !strings.Contains(fmt.Sprint(lost.files()), "-kubeconfig: "+none+": stat "+none) {
		t.Errorf("a kubeconfig that is not there: %v", lost.files())
	}
	if lost.Kubeconfig = kube.InCluster; !strings.Contains(fmt.Sprint(lost.files()), "-kubeconfig: in-cluster: ") {
		t.Errorf("in no cluster: %v", lost.files())
	}
	long := good
	long.StateDir = filepath.Join(dir, strings.Repeat("d", 100))
	if err := long.files(); err == nil || !strings.Contains(err.Error(), "-state-dir: ") || !strings.Contains(err.Error(), "longer than the 107 bytes") {
		t.Errorf("a path that no socket may have: %v", err)
	}
	for _, socket := range []string{filepath.Join(dir, "api.sock"), filepath.Join(t.TempDir(), strings.Repeat("d", 100), "api.sock")} {
		wrong := good
		wrong.WorkloadAPISocket = socket
		if err := wrong.files(); err == nil || !strings.Contains(err.Error(), "-workload-api-socket: ") {
			t.Errorf("%s: %v", socket, err)
		}
	}
	same := good
	same.StateDir = t.TempDir()
	same.WorkloadAPISocket = filepath.Join(same.StateDir, "s")
	if err := same.files(); err == nil || !strings.Contains(err.Error(), "which pods must not mount") && !strings.Contains(err.Error(), "longer than") {
		t.Errorf("in the state directory: %v", err)
	}
}

func TestAnAddressOfAnotherProcessIsNamedBeforeAHookIsAttached(t *testing.T) {
	env.Need(t, env.Netns, env.BPF) // the capabilities of a ztunnel
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	root := filepath.Join(dir, "root.pem")
	pem, _ := certificate(t, true, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err := os.WriteFile(root, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	good := Config{
		NodeName: "n", MeshCIDRs: cidrs("10.77.0.0/16"), Workloads: dir, CAAddress: "ca:1", CARoot: root, TokenFile: filepath.Join(dir, "token"),
		BPFFS: filepath.Join(dir, "bpffs"), Cgroup: dir, StateDir: filepath.Join(dir, "state"), // the cgroup is none: nothing is attached
		HostNetns: "/proc/self/ns/net", MetricsAddress: "127.0.0.1:0", ReadyAddress: "127.0.0.1:0", AdminAddress: "127.0.0.1:0",
	}
	for flag, change := range map[string]func(*Config){
		"-metrics-address": func(c *Config) { c.MetricsAddress = taken.Addr().String() },
		"-ready-address":   func(c *Config) { c.ReadyAddress = taken.Addr().String() },
		"-admin-address":   func(c *Config) { c.AdminAddress = taken.Addr().String() },
	} {
		cfg := good
		change(&cfg)
		if err := Run(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), flag+": listen tcp "+taken.Addr().String()) {
			t.Errorf("%s is taken: %v", flag, err)
		}
	}
	if err := Run(t.Context(), good); err == nil || !strings.HasPrefix(err.Error(), "load steering: ") {
		t.Errorf("all are free: %v", err)
	}
}

func TestTheMeshIsNotExcluded(t *testing.T) {
	problems := func(excluded string) string {
		c := Config{ExcludeCIDRs: cidrs(strings.Split(excluded, ",")...)}
		return fmt.Sprint(c.excludesMesh(cidrs("10.77.0.0/16", "fd77::/32")))
	}
	for _, all := range []string{"10.77.0.0/16", "10.0.0.0/8", "fd77::/16",
		"10.77.0.0/17,10.77.128.0/17", "10.77.128.0/17,192.0.2.0/24,10.77.64.0/18,10.77.0.0/18,10.77.0.1/32",
		"fd77::/33,fd77:0:8000::/33", "fd77::/33,fd77:0:8000::/34,fd77:0:c000::/34"} {
		if got := problems(all); !strings.Contains(got, "-exclude-cidrs") {
			t.Errorf("excluding %s: %s", all, got)
		}
	}
	for _, part := range []string{"10.77.0.10/32", "10.78.0.0/16", "192.0.2.0/24",
		"10.77.0.0/17,10.77.128.0/18", "10.77.0.0/17,10.77.0.0/18,10.76.0.0/16,10.78.0.0/16", "fd77::/33,fd77:0:8000::/34", "fd77::/33,10.77.128.0/17"} {
		if got := problems(part); got != "[]" {
			t.Errorf("excluding %s: %s", part, got)
		}
	}
}

func TestDurationsAreTextInTheDump(t *testing.T) {
	text, err := json.Marshal(Config{NodeName: "n", TTL: time.Hour, Drain: 1500 * time.Millisecond}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if none, err := json.Marshal(Config{}.withDefaults()); err != nil || !strings.Contains(string(none), `"TTL":""`) {
		t.Errorf("without a lifetime: %s, %v", none, err)
	}
	if got["TTL"] != "1h0m0s" || got["Drain"] != "1.5s" || got["NodeName"] != "n" || got["Level"] != "INFO" {
		t.Errorf("%s", text)
	}
}

func cidrs(all ...string) (prefixes []netip.Prefix) {
	for _, s := range all {
		prefixes = append(prefixes, netip.MustParsePrefix(s))
	}
	return prefixes
}

func TestOnlyANewStateDirectoryIsClosedToOthers(t *testing.T) {
	for _, tc := range []struct {
		before os.FileMode
		file   string // in it
		want   os.FileMode
	}{
		{0o755, "", 0o700},
		{0o755, "a.pid", 0o755},
		{0o777, "", 0o777},
		{0o700, "sandboxes", 0o700},
	} {
		dir := t.TempDir()
		if tc.file != "" {
			if err := os.WriteFile(filepath.Join(dir, tc.file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, tc.before); err != nil {
			t.Fatal(err)
		}
		if err := closeNew(dir); err != nil {
			t.Error(err)
		}
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != tc.want {
			t.Errorf("mode %#o with file %q became %v, %v; want %#o", tc.before, tc.file, st.Mode(), err, tc.want)
		}
	}
}
