// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// dn begins both files of the articles on Dapr: root and issuer have one name.
const dn = `[req]
distinguished_name = req_distinguished_name
x509_extensions = v3_req
prompt = no
[req_distinguished_name]
C = US
O = example
CN = cluster.local
`

const usages = `keyUsage = critical, digitalSignature, cRLSign, keyCertSign
extendedKeyUsage = serverAuth, clientAuth
`

// What the articles type to make a root and an issuer with openssl.
const (
	articleRoot = `openssl ecparam -genkey -name prime256v1 | openssl ec -out root.key
openssl req -new -nodes -sha256 -key root.key -out root.csr -config root.conf -extensions v3_req
openssl x509 -req -sha256 -days 365 -in root.csr -signkey root.key -outform PEM -out root.pem -extfile root.conf -extensions v3_req
`
	articleIssuer = `openssl ecparam -genkey -name prime256v1 | openssl ec -out issuer.key
openssl req -new -sha256 -key issuer.key -out issuer.csr -config issuer.conf -extensions v3_req
openssl x509 -req -in issuer.csr -CA root.pem -CAkey root.key -CAcreateserial -outform PEM -out issuer.pem -days 365 -sha256 -extfile issuer.conf -extensions v3_req
`
)

// inShell runs commands where files are, and returns what the directory holds then.
func inShell(t *testing.T, commands string, files map[string]string) Files {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skipf("what the documents say is typed into openssl: %v", err)
	}
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-e", "-c", commands)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filesIn(t, dir)
}

func filesIn(t *testing.T, dir string) Files {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := Files{}
	for _, entry := range entries {
		if files[entry.Name()], err = os.ReadFile(filepath.Join(dir, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func codes(defects []Defect) (all []string) {
	for _, d := range defects {
		all = append(all, d.Code)
	}
	return all
}

// A000-14, and the root of A003-10: as Dapr's documentation has it.
func TestTheDocumentedCommandsOfOpenSSLMakeACA(t *testing.T) {
	conf := func(constraints string) string {
		return dn + "[v3_req]\nbasicConstraints = critical, " + constraints + "\n" + usages + "subjectAltName = @alt_names\n[alt_names]\nDNS.1 = cluster.local\n"
	}
	files := inShell(t, articleRoot+articleIssuer, map[string]string{"root.conf": conf("CA:true"), "issuer.conf": conf("CA:true, pathlen:0")})
	if got := codes(Lint(files, Options{ServerNames: []string{serverName}})); got != nil {
		t.Errorf("%v, want none", got)
	}
	// The same files by the names that Dapr's Secret has.
	brought := Files{"ca.crt": files["root.pem"], "issuer.crt": files["issuer.pem"], "issuer.key": files["issuer.key"]}
	if c := taken(t, brought); c.Layout() != Dapr {
		t.Errorf("layout %s", c.Layout())
	}
}

// A.0, 000:128: the article forgot to name alt_names, and wrote the path length below
// it. openssl takes that in silence: no SAN, and no path length.
func TestTheArticlesConfigurationIsExplained(t *testing.T) {
	conf := dn + "[v3_req]\nbasicConstraints = critical, CA:true\n" + usages +
		"[alt_names]\nDNS.1 = cluster.local\nbasicConstraints = critical, CA:true, pathlen:0\n"
	files := inShell(t, articleRoot+articleIssuer, map[string]string{"root.conf": conf, "issuer.conf": conf})
	defects := Lint(files, Options{})
	if !slices.Equal(codes(defects), []string{noPathLength}) {
		t.Fatalf("%v", defects)
	}
	for _, want := range []string{"issuer.pem", "no path length", "needs no subjectAltName", "in the section that -extensions names"} {
		if d := defects[0]; !strings.Contains(d.What+d.Follows+d.Mend, want) {
			t.Errorf("%q, %q, %q: want %q", d.What, d.Follows, d.Mend, want)
		}
	}
	if c := taken(t, files); len(c.Warnings()) != 1 {
		t.Errorf("in force with %v", c.Warnings())
	}
}

// A.0, 000:128, had the line stood there alone: then nothing is an authority.
func TestBasicConstraintsInAnotherSectionAreExplained(t *testing.T) {
	good := dn + "[v3_req]\nbasicConstraints = critical, CA:true\n" + usages
	conf := dn + "[v3_req]\n" + usages + "[alt_names]\nDNS.1 = cluster.local\nbasicConstraints = critical, CA:true\n"
	files := inShell(t, articleRoot+articleIssuer, map[string]string{"root.conf": good, "issuer.conf": conf})
	defects := Lint(files, Options{})
	if !slices.Equal(codes(defects), []string{noConstraints}) || !strings.Contains(defects[0].Mend, "not below another [section]") {
		t.Errorf("%v", defects)
	}
}

// A000-4: other keys that openssl makes.
func TestKeysOfOpenSSLAreTaken(t *testing.T) {
	conf := dn + "[v3_req]\nbasicConstraints = critical, CA:true\n" + usages
	issuerConf := strings.ReplaceAll(strings.ReplaceAll(conf, "CA:true", "CA:true, pathlen:0"), "CN = cluster.local", "CN = issuer")
	for _, genkey := range []string{
		"openssl ecparam -genkey -name secp384r1 -out issuer.key", // with its EC PARAMETERS
		"openssl genpkey -algorithm ed25519 -out issuer.key",
		"openssl genrsa -out issuer.key 2048",
		"openssl genrsa -traditional -out issuer.key 3072",
	} {
		_, rest, _ := strings.Cut(articleIssuer, "\n")
		files := inShell(t, articleRoot+genkey+"\n"+rest, map[string]string{"root.conf": conf, "issuer.conf": issuerConf})
		if got := Lint(files, Options{}); got != nil {
			t.Errorf("%s: %v", genkey, got)
		}
	}
}

// atItsTime runs f when a committed certificate holds, whatever the clock says.
func atItsTime(t *testing.T, files Files, f func(t *testing.T)) {
	t.Helper()
	e := &examination{files: files}
	begin := e.certificates("issuer.crt", maxChain, maxCerts)[0].NotBefore
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(begin) + time.Hour) // bubble time
		f(t)
	})
}

// A000-4, A000-5: testdata/step is what smallstep's x509util and pemutil make by the
// templates of the profiles root-ca and intermediate-ca, with the key encrypted as
// step does unless told otherwise. testdata/cfssl is by its initca and signer.
func TestChainsOfStepAndCFSSLAreTaken(t *testing.T) {
	for _, tool := range []string{"step", "cfssl"} {
		files := filesIn(t, filepath.Join("testdata", tool))
		passphrase := filepath.Join(t.TempDir(), "passphrase")
		if err := os.WriteFile(passphrase, []byte("sesame\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		opts := Options{TrustDomain: td, ServerNames: []string{serverName}, PassphraseFile: passphrase}
		atItsTime(t, files, func(t *testing.T) {
			if got := Lint(files, opts); got != nil {
				t.Errorf("%s: %v", tool, got)
			}
			c, err := New(opts)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Take(files); err != nil {
				t.Fatalf("%s: %v", tool, err)
			}
			if err := verify(c, sign(t, c, plainCSR(t), time.Minute), x509.ExtKeyUsageClientAuth); err != nil {
				t.Errorf("%s: %v", tool, err)
			}
			// An article gives root and issuer one name. step then writes no authority
			// key identifier, and openssl verify says error 18, or 19 below it.
			files["issuer.crt"] = files["same-name.crt"]
			if tool == "step" && !slices.Equal(codes(Lint(files, opts)), []string{takenSelfSigned}) {
				t.Errorf("one name: %v", Lint(files, opts))
			}
		})
	}
}

// A002-17, A004-8: what cert-manager writes for isCA Certificates of the articles: one
// with cert sign, crl sign, server auth and client auth for 48 hours, one for 1440.
func TestCertificatesOfCertManagerAreTaken(t *testing.T) {
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, life := range []time.Duration{48 * time.Hour, 1440 * time.Hour} {
		root := authorityFor("root.linkerd.cluster.local", 21600*time.Hour, 0)
		root.URIs, root.MaxPathLen, root.MaxPathLenZero = nil, -1, false
		root.KeyUsage |= x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
		top := newParty(t, nil, nil, root)
		template := authorityFor("identity.linkerd.cluster.local", life, 0)
		template.URIs, template.ExtKeyUsage, template.DNSNames = nil, usages, []string{"identity.linkerd.cluster.local"}
		template.MaxPathLen, template.MaxPathLenZero = -1, false // it sets none
		issuer := newParty(t, top, nil, template)
		der, err := x509.MarshalPKCS8PrivateKey(issuer.key)
		if err != nil {
			t.Fatal(err)
		}
		files := Files{"ca.crt": pemOf(top), "tls.crt": pemOf(issuer), "tls.key": block(pkcs8Key, der)}
		if got := codes(Lint(files, Options{LeafTTL: time.Hour})); !slices.Equal(got, []string{noPathLength}) {
			t.Errorf("%v: %v", life, got)
		}
		if c := taken(t, files); c.Layout() != CertManager {
			t.Errorf("layout %s", c.Layout())
		}
	}
}
