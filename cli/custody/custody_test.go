// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/identity/ca"
)

func made(name string) ca.Files {
	root := clitest.Authority(name, nil, clitest.Now.Add(-clitest.Day), clitest.Now.Add(100*clitest.Day))
	return clitest.Files(root, clitest.Authority(name+" issuer", root, clitest.Now.Add(-clitest.Day), clitest.Now.Add(10*clitest.Day)))
}

func TestABackupThatIsNotWholeIsRefused(t *testing.T) {
	files := made("root")
	archive, err := Pack(files, "here", clitest.Now)
	if err != nil {
		t.Fatal(err)
	}
	m, back, err := Unpack(archive)
	if err != nil || m.Of != "here" || !m.Made.Equal(clitest.Now) || !maps.EqualFunc(back, files, bytes.Equal) {
		t.Fatalf("%+v, %v", m, err)
	}
	changed := bytes.Clone(archive)
	i := bytes.Index(changed, []byte("BEGIN CERTIFICATE")) + 40
	changed[i] ^= 1
	escape, _ := Pack(ca.Files{"../root.pem": files["root.pem"]}, "here", clitest.Now)
	for name, tc := range map[string]struct {
		archive []byte
		want    string
	}{
		"nothing":               {nil, "format 0"},
		"noise":                 {[]byte(strings.Repeat("x", 2048)), "not a backup"},
		"cut off":               {archive[:len(archive)-4096], "backup"},
		"a changed byte":        {changed, "is not what was put into it"},
		"a name that leads out": {escape, "no name of a file"},
	} {
		if _, _, err := Unpack(tc.archive); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestASecretIsCreatedOnceAndUnderTheRootThatIsTrusted(t *testing.T) {
	k := &clitest.Kubernetes{}
	api, err := kubeapi.Open(k.Kubeconfig(t, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	roots := Roots{API: api, Namespace: "ns", Name: "culvert-root"}
	secret := Secret{API: api, Namespace: "ns", Name: "culvert-ca", Traces: []Place{roots}}
	if files, err := secret.Read(t.Context()); files != nil || err != nil {
		t.Fatalf("before there is one: %v, %v", files, err)
	}
	publish := func(text []byte) {
		k.Put("/api/v1/namespaces/ns/configmaps/culvert-root", corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"root.pem": string(text)},
		})
	}
	ours := made("ours")
	publish(made("theirs")["root.pem"])
	if err := secret.Create(t.Context(), ours); err == nil || !strings.Contains(err.Error(), "holds the root of another CA") {
		t.Errorf("beside the root of another CA: %v", err)
	}
	publish(append(made("theirs")["root.pem"], ours["root.pem"]...))
	if err := secret.Create(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if back, err := secret.Read(t.Context()); err != nil || !maps.EqualFunc(back, ours, bytes.Equal) {
		t.Errorf("%v, %v", back, err)
	}
	if err := secret.Create(t.Context(), ours); err == nil || !strings.Contains(err.Error(), "nothing is written over it") {
		t.Errorf("twice: %v", err)
	}
	next := ca.Files{"issuer.pem": made("next")["issuer.pem"]}
	if err := secret.Replace(t.Context(), made("other"), next); err == nil {
		t.Error("what was not read was replaced")
	}
	if err := secret.Replace(t.Context(), ours, next); err != nil {
		t.Error(err)
	}
}

// The backup is older than the renewal of its root, and the former certificate is published
// no more.
func TestASecretIsCreatedUnderTheRenewedCertificateOfItsRoot(t *testing.T) {
	k := &clitest.Kubernetes{}
	api, err := kubeapi.Open(k.Kubeconfig(t, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	backup, err := ca.Make(ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), RootTTL: 400 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(backup[ca.RootKeyFile])
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := ca.NextRoot(backup, key.(crypto.Signer), ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, former := pem.Decode(renewed[ca.RootFile])
	k.Put("/api/v1/namespaces/ns/configmaps/culvert-root", corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"root.pem": strings.TrimSuffix(string(renewed[ca.RootFile]), string(former))},
	})
	secret := Secret{API: api, Namespace: "ns", Name: "culvert-ca", Traces: []Place{Roots{API: api, Namespace: "ns", Name: "culvert-root"}}}
	if err := secret.Create(t.Context(), backup); err != nil {
		t.Error(err)
	}
}

func TestADirectoryIsReplacedAsItWasReadOrNotAtAll(t *testing.T) {
	d := Directory(filepath.Join(t.TempDir(), "ca"))
	ours, ctx := made("ours"), context.Background()
	if err := d.Create(ctx, ours); err != nil {
		t.Fatal(err)
	}
	if err := d.Create(ctx, ours); err == nil {
		t.Error("it was created over a CA")
	}
	next := ca.Files{"issuer.pem": made("next")["issuer.pem"], "issuer.key": made("next")["issuer.key"]}
	if err := d.Replace(ctx, made("other"), next); err == nil || !strings.Contains(err.Error(), "changed by another hand") {
		t.Errorf("what was not read: %v", err)
	}
	if err := d.Replace(ctx, ours, next); err != nil {
		t.Fatal(err)
	}
	back, err := d.Read(ctx)
	if err != nil || !bytes.Equal(back["issuer.key"], next["issuer.key"]) || !bytes.Equal(back["root.pem"], ours["root.pem"]) {
		t.Errorf("%v", err)
	}
	for name, mode := range map[string]os.FileMode{"root.key": 0o600, "issuer.key": 0o600, "issuer.pem": 0o644} {
		if stat, err := os.Stat(filepath.Join(string(d), name)); err != nil || stat.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, stat, err)
		}
	}
	entries, _ := os.ReadDir(string(d))
	if len(entries) != 4 {
		t.Errorf("staged files stay: %v", entries)
	}
}

// The CA runs as another user than the operator who replaces its files.
func TestAFileThatIsReplacedKeepsItsModeAndOwner(t *testing.T) {
	d := Directory(t.TempDir())
	if err := os.Chown(string(d), 65532, 65531); errors.Is(err, os.ErrPermission) {
		t.Skipf("no file may be given to another user here: %v", err)
	}
	path := filepath.Join(string(d), "deny.yaml")
	for name, mode := range map[string]os.FileMode{path: 0o640, path + ".new": 0o600, filepath.Join(string(d), "issuer.key"): 0o400} {
		if err := errors.Join(os.WriteFile(name, []byte("[]"), mode), os.Chown(name, 65532, 65531)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ReplaceFile(path, []byte("other"), []byte("x")); err == nil {
		t.Error("what was not read was replaced")
	}
	if err := errors.Join(ReplaceFile(path, []byte("[]"), []byte("x")), d.write(ca.Files{"issuer.key": made("ours")["issuer.key"]})); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{path: 0o640, filepath.Join(string(d), "issuer.key"): 0o400} {
		stat, err := os.Stat(name)
		if err != nil || stat.Mode().Perm() != mode || stat.Sys().(*syscall.Stat_t).Uid != 65532 {
			t.Errorf("%s: %v, %v", name, stat, err)
		}
	}
	if entries, _ := os.ReadDir(string(d)); len(entries) != 3 {
		t.Errorf("staged files stay: %v", entries)
	}
}
