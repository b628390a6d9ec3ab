// SPDX-License-Identifier: Apache-2.0

package report

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGsecretsecretsecret\n-----END PRIVATE KEY-----\n"

const (
	cert = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIQ\n-----END CERTIFICATE-----\n"
	jwt  = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlc2lnbmF0dXJl"
)

func TestNoKeyAndNoTokenRemains(t *testing.T) {
	inJSON, err := json.Marshal(map[string]string{"key": key, "after": "stays"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ text, secret string }{
		"PEM":                    {"before\n" + key + "after stays", "secretsecret"},
		"PEM in JSON":            {string(inJSON), "secretsecret"},
		"EC, cut off":            {"stays -----BEGIN EC PRIVATE KEY-----\nsecretsecret", "secretsecret"},
		"base64 of PEM":          {`{"tls.key":"` + base64.StdEncoding.EncodeToString([]byte(key)) + `","x":"stays"}`, base64.StdEncoding.EncodeToString([]byte(key))[60:80]},
		"base64 of both":         {"stays " + base64.StdEncoding.EncodeToString([]byte(cert+key)), base64.StdEncoding.EncodeToString([]byte(cert + key))[120:140]},
		"a JWT":                  {"token=" + jwt + " stays", "eyJpc3MiOiJrdWJlcm5ldGVzIn0"},
		"a header":               {"Authorization: Bearer abcdef0123456789 stays", "abcdef0123456789"},
		"a JSON header":          {`{"authorization":"Basic dXNlcjpwYXNzd29yZA==","b":"stays"}`, "dXNlcjpwYXNz"},
		"bearer alone":           {`got bearer abcdef0123456789, stays`, "abcdef0123456789"},
		"a join token":           {"culvert-join.0011aabb.c2VjcmV0c2VjcmV0 stays", "c2VjcmV0c2VjcmV0"},
		"base64 in lines":        {"stays\n" + inLines(key), inLines(key)[80:100]},
		"a key cut off in front": {"secretsecret\n-----END PRIVATE KEY-----\nstays", "secretsecret"},
		"a URL with a user":      {"https://vault:hushhush@vault.test/x stays", "hushhush"},
		"a token in a URL":       {"GET /x?a=1&token=hushhush&b=2 stays", "hushhush"},
		"an argument":            {`"args":["--password=hushhush","stays"]`, "hushhush"},
		"a token of Vault":       {"hvs.CAESIhushhush stays", "hushhush"},
		"a header of Vault":      {`{"name":"X-Vault-Token","value":"hushhush"} stays`, "hushhush"},
		"an age key":             {"AGE-SECRET-KEY-1QQQQQQQQQQQQ stays", "QQQQ"},
	} {
		got := string(Redact([]byte(tc.text)))
		if strings.Contains(got, tc.secret) || !strings.Contains(got, "stays") || !strings.Contains(got, removed) {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, text := range []string{cert, base64.StdEncoding.EncodeToString([]byte(cert)), "the bearer of news", `"authorizationPolicies": []`} {
		if got := string(Redact([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// inLines is the base64 of a text as mail and kubectl wrap it.
func inLines(text string) (lines string) {
	whole := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(text, 2)))
	for len(whole) > 76 {
		lines, whole = lines+whole[:76]+"\n", whole[76:]
	}
	return lines + whole + "\n"
}

func TestAnArchiveIsBoundedAndSaysWhatIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.tar.gz")
	a, err := Create(path, "root", 10, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	a.Add("one", []byte("12345678"), "")
	a.Add("two", []byte("123456"), "the end of a log")
	a.Add("three", []byte("1"), "")
	a.Miss("four", errors.New("no answer\nto "+jwt))
	missing, err := a.Close("about")
	if err != nil || missing != 1 {
		t.Fatal(missing, err)
	}
	stat, err := os.Stat(path)
	if err != nil || stat.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", stat.Mode(), err)
	}
	files := read(t, path)
	want := "about\nfour: MISSING: no answer to " + removed + "\none: 8 bytes\nthree: 0 bytes: cut at 0 of 1 bytes: the report is full\n" +
		"two: 2 bytes: the end of a log; cut at 2 of 6 bytes: the report is full\n"
	if got := files["root/"+Index]; got != want {
		t.Errorf("index:\n%s\nwant:\n%s", got, want)
	}
	if files["root/one"] != "12345678" || files["root/two"] != "12" {
		t.Errorf("%q", files)
	}
	if _, err := Create(path, "root", 10, time.Now()); err == nil || !strings.HasSuffix(err.Error(), "is there already") {
		t.Errorf("over another: %v", err)
	}
}

func TestADiskThatIsFullLeavesNoArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.tar.gz")
	a, err := Create(path, "root", 10, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a.file.Close() // writing fails from now on
	a.Add("one", []byte("1"), "")
	if _, err := a.Close(""); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
}

func read(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for all := tar.NewReader(zip); ; {
		header, err := all.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(all)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(text)
	}
}
