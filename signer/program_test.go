// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// All of it as programs: SoftHSM2, culvert-signer and culvert-identity.
func TestCulvertIdentityIsReadyWhileTheTokenSigns(t *testing.T) {
	k := newToken(t)
	first := k.serve("issuer", "issuer")
	files, err := ca.Make(ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), IssuerKey: k.key(first)})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{k.path("ca"), k.path("objects")} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		k.write(filepath.Join("ca", name), string(text))
	}
	k.write("jwks", `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","alg":"ES256","use":"sig",`+ // RFC 7515, A.3.1
		`"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`)
	build := exec.Command("go", "-C", "..", "build", "-o", k.path("culvert-identity"), "./cmd/culvert-identity")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	metrics := free(t)
	identity := exec.Command(k.path("culvert-identity"), "-dir", k.path("ca"), "-workloads", k.path("objects"), "-jwks", k.path("jwks"),
		"-listen", free(t), "-metrics-address", metrics, "-admin-address", free(t))
	log := new(bytes.Buffer)
	identity.Stdout, identity.Stderr = log, log
	if err := identity.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		identity.Process.Kill()
		identity.Wait()
		if t.Failed() {
			t.Logf("culvert-identity:\n%s", log)
		}
	}()
	ready := func() string {
		response, err := http.Get("http://" + metrics + "/readyz")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return string(text)
	}
	k.await("the CA is ready", func() bool { return ready() == "ok\n" })
	first.stop()
	k.await("it says that its signer is away", func() bool { return strings.Contains(ready(), "[-]signer failed: unix:"+k.path("run/issuer")) })
	k.serve("issuer", "issuer")
	k.await("it is ready again", func() bool { return ready() == "ok\n" })
}

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
