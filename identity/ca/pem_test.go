// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/youmark/pkcs8"

	"github.com/culvert-mesh/culvert/test/env"
)

// opened is the CA of a kit, or why it is none.
func opened(k *kit) error {
	c, err := New(k.opts)
	if err != nil {
		return err
	}
	_, err = c.Take(k.files)
	return err
}

// A000-4: what editors, shells and other programs make of PEM files is still read.
func TestFilesAsOtherProgramsWriteThem(t *testing.T) {
	params := block(ecParameters, []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	sec1 := func(k *kit) []byte {
		der, err := x509.MarshalECPrivateKey(k.issuer.key.(*ecdsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		return block(sec1Key, der)
	}
	each := func(change func([]byte) []byte) func(*kit) {
		return func(k *kit) {
			for name, text := range k.files {
				k.files[name] = change(text)
			}
		}
	}
	for name, do := range map[string]func(*kit){
		"byte order mark":      each(func(text []byte) []byte { return append([]byte("\xef\xbb\xbf"), text...) }),
		"lines that end in CR": each(func(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")) }),
		"no end of the line":   each(bytes.TrimSpace),
		"openssl x509 -text": each(func(text []byte) []byte {
			return append([]byte("Certificate:\n    Data:\n        Version: 3\n"), text...)
		}),
		"Bag Attributes": each(func(text []byte) []byte {
			return append([]byte("Bag Attributes\n    friendlyName: ca\nKey Attributes: <No Attributes>\n"), text...)
		}),
		"text behind it":  each(func(text []byte) []byte { return append(text, "\n# end\n"...) }),
		"SEC 1":           func(k *kit) { k.files[IssuerKeyFile] = sec1(k) },
		"openssl ecparam": func(k *kit) { k.files[IssuerKeyFile] = append(params, sec1(k)...) },
		"ecparam, behind": func(k *kit) { k.files[IssuerKeyFile] = append(sec1(k), params...) },
		"PKCS#1": func(k *kit) {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			k.issue(key, nil)
			k.files[IssuerKeyFile] = block(pkcs1Key, x509.MarshalPKCS1PrivateKey(key))
		},
	} {
		k := newKit(t)
		do(k)
		if defects := Lint(k.files, k.opts); defects != nil {
			t.Errorf("%s: %v", name, defects)
		}
	}
}

// encryptedBy returns the key in the ways in which programs encrypt keys.
func encryptedBy(t *testing.T, key crypto.Signer, passphrase string) map[string][]byte {
	t.Helper()
	ways := map[string][]byte{}
	for name, opts := range map[string]*pkcs8.Opts{
		"PBKDF2": {Cipher: pkcs8.AES256CBC, KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: 2048, HMACHash: crypto.SHA256}},
		"scrypt": {Cipher: pkcs8.AES256CBC, KDFOpts: pkcs8.ScryptOpts{SaltSize: 16, CostParameter: 1 << 14, BlockSize: 8, ParallelizationParameter: 1}},
	} {
		der, err := pkcs8.MarshalPrivateKey(key, []byte(passphrase), opts)
		if err != nil {
			t.Fatal(err)
		}
		ways[name] = block(pkcs8Secret, der)
	}
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := x509.EncryptPEMBlock(rand.Reader, sec1Key, der, []byte(passphrase), x509.PEMCipherAES256) //lint:ignore SA1019 as openssl ec -aes256 does
	if err != nil {
		t.Fatal(err)
	}
	ways["DEK-Info"] = pem.EncodeToMemory(legacy)
	return ways
}

func TestEncryptedKeysAreOpenedByThePassphraseInAFile(t *testing.T) {
	for name, text := range encryptedBy(t, newKit(t).issuer.key, "sesame") {
		for _, line := range []string{"sesame", "sesame\n", "sesame\r\n"} {
			e := &examination{files: Files{IssuerKeyFile: text}}
			k := newKit(t)
			k.passphrase(line)
			e.opts = k.opts
			if key := e.privateKey(IssuerKeyFile); key == nil {
				t.Errorf("%s, %q: %v", name, line, e.defects)
			}
		}
	}
	k := newKit(t)
	k.passphrase("open")
	for name, text := range encryptedBy(t, k.issuer.key, "sesame") {
		k.files[IssuerKeyFile] = text
		if err := opened(k); err == nil || !strings.Contains(err.Error(), passphraseWrong) {
			t.Errorf("%s by another passphrase: %v", name, err)
		}
	}
}

// What openssl itself writes, with the passphrase in the same file for both.
func TestKeysThatOpenSSLEncryptsAreOpened(t *testing.T) {
	k := newKit(t)
	k.passphrase("sesame\n")
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, k.files[IssuerKeyFile], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"pkcs8 -topk8 -v2 aes-256-cbc", "pkcs8 -topk8 -v2 aes-128-cbc -v2prf hmacWithSHA1", "pkcs8 -topk8 -scrypt", "ec -aes256"} {
		out, err := opensslIn(t, filepath.Dir(plain), args+" -in plain -passout file:"+k.opts.PassphraseFile)
		if err != nil {
			t.Fatal(err)
		}
		k.files[IssuerKeyFile] = out
		if err := opened(k); err != nil {
			t.Errorf("openssl %s: %v", args, err)
		}
	}
}

// opensslIn runs openssl in a directory and returns what it prints.
func opensslIn(t *testing.T, dir, args string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command("openssl", strings.Fields(args)...)
	cmd.Dir = dir
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("openssl %s: %v: %s", args, err, errors.Bytes())
	}
	return out, nil
}

// A key may be made to take its reader hours, or all memory.
func TestAKeyThatIsExpensiveToOpenIsRefusedAtOnce(t *testing.T) {
	kdf := func(oid asn1.ObjectIdentifier, params any) []byte {
		der := mustDER(t, params)
		stretch := pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: der}}
		scheme := mustDER(t, struct{ KDF, Cipher pkix.AlgorithmIdentifier }{stretch, pkix.AlgorithmIdentifier{Algorithm: oidPBES2}})
		return mustDER(t, struct {
			Scheme pkix.AlgorithmIdentifier
			Key    []byte
		}{pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: asn1.RawValue{FullBytes: scheme}}, []byte("key")})
	}
	type pbkdf2 struct {
		Salt       []byte
		Iterations int
	}
	type scrypt struct {
		Salt    []byte
		N, R, P int
	}
	for want, der := range map[string][]byte{
		"takes 2147483647 iterations": kdf(oidPBKDF2, pbkdf2{nil, 1<<31 - 1}),
		"takes 0 iterations":          kdf(oidPBKDF2, pbkdf2{nil, 0}),
		"N=1073741824":                kdf(oidScrypt, scrypt{nil, 1 << 30, 8, 1}),
		"r=1073741824":                kdf(oidScrypt, scrypt{nil, 16, 1 << 30, 1}),
		"p=1073741824":                kdf(oidScrypt, scrypt{nil, 16, 8, 1 << 30}),
		"N=-1":                        kdf(oidScrypt, scrypt{nil, -1, 8, 1}),
		"want PBKDF2 or scrypt":       kdf(oidPBES2, pbkdf2{nil, 1}),
		"":                            kdf(oidPBKDF2, pbkdf2{nil, 600_000}), // step
	} {
		k := newKit(t)
		k.passphrase("sesame")
		k.files[IssuerKeyFile] = block(pkcs8Secret, der)
		if err := opened(k); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the CA: %v, want %q", err, want)
		}
		if got := text(checkCost(der)); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func mustDER(t *testing.T, value any) []byte {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A passphrase that is no file must not stop the CA: a FIFO has no writer.
func TestAPassphraseThatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	fifo, empty, huge := filepath.Join(dir, "fifo"), filepath.Join(dir, "empty"), filepath.Join(dir, "huge")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{empty: "\n", huge: strings.Repeat("x", maxPassphrase+1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{fifo: "not a regular file", dir: "not a regular file", empty: "is empty", huge: "longer than"} {
		done := make(chan error, 1)
		go func() {
			_, err := readPassphrase(path)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it waits", path)
		}
	}
}

// CVE-2024-12401: what is read is bounded before it is decoded.
func TestHugeFilesAreNotDecoded(t *testing.T) {
	k := newKit(t)
	for name, text := range map[string][]byte{
		"blocks": bytes.Repeat([]byte("-----BEGIN CERTIFICATE-----\n"), maxBundle/40),
		"dashes": bytes.Repeat([]byte("-----"), maxBundle/5),
		"noise":  bytes.Repeat([]byte{0x30, 0x80}, maxBundle/2),
	} {
		k.files[RootFile] = text
		took := env.Best(2*time.Second, func() time.Duration {
			watch := env.NewStopwatch()
			if err := opened(k); err == nil {
				t.Errorf("%s: taken", name)
			}
			return watch.Elapsed()
		})
		if took > 2*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func FuzzFiles(f *testing.F) {
	files := made(f)
	f.Add(files[RootFile], files[IssuerFile], files[IssuerKeyFile], files[RootKeyFile])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"), []byte{0x30, 0x80}, []byte("\xff\xfe-\x00-\x00"), []byte(nil))
	f.Fuzz(func(t *testing.T, root, issuer, key, rootKey []byte) {
		brought := Files{RootFile: root, IssuerFile: issuer, IssuerKeyFile: key, RootKeyFile: rootKey}
		refused := false
		for _, d := range Lint(brought, Options{TrustDomain: td}) {
			refused = refused || d.Severity == Error
		}
		c, err := New(Options{TrustDomain: td})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Take(brought); (err != nil) != refused {
			t.Fatalf("Lint refuses: %v, Take: %v", refused, err)
		}
	})
}
