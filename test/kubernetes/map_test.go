// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const mapHost = "culvert-map.culvert-system.svc"

// startMap runs the map as the chart has it, in TLS, until the end of the test.
func (m *installed) startMap() {
	m.t.Helper()
	cert, key := serverPEM(m.t, mapHost)
	m.enter("node1", "sh", "-c", "cat >/tmp/map.pem <<'END'\n"+cert+"END\n")
	dir := m.t.TempDir()
	for name, text := range map[string]string{"tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	objects := m.helm("template", "--set=map.enabled=true", "--set=map.tlsSecret=map-tls", "--set=map.every=1s", "--show-only=templates/map.yaml")
	file := filepath.Join(dir, "map.yaml")
	if err := os.WriteFile(file, []byte(objects), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if m.t.Failed() {
			said, err := m.kubectl("logs", "--namespace=culvert-system", "deployment/culvert-map", "--tail=20")
			m.t.Logf("the map says:\n%s %v", said, err)
		}
		_, _ = m.kubectl("delete", "--filename="+file, "--ignore-not-found", "--wait=false")
		_, _ = m.kubectl("delete", "secret", "map-tls", "--namespace=culvert-system")
	})
	m.inSystem("create", "secret", "tls", "map-tls", "--cert="+filepath.Join(dir, "tls.crt"), "--key="+filepath.Join(dir, "tls.key"))
	m.mustApply(objects)
	m.inSystem("rollout", "status", "deployment/culvert-map", "--timeout=2m")
}

// serverPEM is a certificate that vouches for itself, and its key.
func serverPEM(t *testing.T, host string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	fail(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	fail(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// seen is what the map shows to one viewer.
type seen struct {
	All        bool
	Namespaces []string
	Workloads  []struct {
		ID                       string
		Pods, Intended, Verified int
	}
	Edges []struct{ From, To string }

	text string
}

func (s seen) has(from, to string) bool {
	return slices.ContainsFunc(s.Edges, func(e struct{ From, To string }) bool { return e.From == from && e.To == to })
}

// ask asks the map as a browser on a node would, by its Service. It returns the status of
// HTTP and the answer.
func (m *installed) ask(token string) (status, body string, err error) {
	address := m.mustKubectl("get", "service", "culvert-map", "--namespace=culvert-system", "--output=jsonpath={.spec.clusterIP}")
	said, err := m.tryEnter("node1", "curl", "--silent", "--show-error", "--cacert", "/tmp/map.pem", "--resolve", mapHost+":443:"+address,
		"--header", "Authorization: Bearer "+token, "--write-out", `\n%{http_code}`, "https://"+mapHost+"/api/graph")
	at := strings.LastIndex(said, "\n")
	if err != nil || at < 0 {
		return "", said, fmt.Errorf("the map answers %q: %v", said, err)
	}
	return said[at+1:], said[:at], nil
}

// shows waits until the map shows to the owner of a token what is wanted.
func (m *installed) shows(token string, wanted func(seen) bool) seen {
	m.t.Helper()
	var now seen
	eventually(m.t, func() error {
		status, body, err := m.ask(token)
		if err != nil {
			return err
		}
		now = seen{text: body}
		if err := json.Unmarshal([]byte(body), &now); err != nil || status != "200" {
			return fmt.Errorf("%s: %s", status, body)
		}
		if !wanted(now) {
			return fmt.Errorf("it shows %.3000s", body)
		}
		return nil
	})
	return now
}

// viewer is a ServiceAccount of the namespace seen, and its token for the map.
func (m *installed) viewer(name string) (token string) {
	m.t.Helper()
	m.mustKubectl("create", "serviceaccount", name, "--namespace=seen")
	return m.mustKubectl("create", "token", name, "--namespace=seen", "--audience=culvert-map")
}

// The chart's Deployment, with the rights that it ships with: the API server says whose a
// token is and what its owner may list, and the map shows that. Somebody who may list the
// pods of one namespace is shown no name of another, though there are connections from there.
func TestViewersOfTheMapOnAClusterSeeTheirNamespacesAlone(t *testing.T) {
	m := useMesh(t)
	m.openShop("seen", "culvert.dev/mesh=enabled")
	m.mustKubectl("label", "namespace", older, "culvert.dev/mesh=enabled")
	t.Cleanup(func() { m.mustKubectl("label", "namespace", older, "culvert.dev/mesh-") })
	m.startMap()
	m.awaitEnrolled(older)

	one, all, none := m.viewer("one"), m.viewer("all"), m.viewer("none")
	m.mustKubectl("create", "role", "looks", "--namespace=seen", "--verb=list", "--resource=pods")
	m.mustKubectl("create", "rolebinding", "looks", "--namespace=seen", "--role=looks", "--serviceaccount=seen:one")
	m.mustKubectl("create", "clusterrolebinding", "map-looks", "--clusterrole=view", "--serviceaccount=seen:all")
	t.Cleanup(func() { _, _ = m.kubectl("delete", "clusterrolebinding", "map-looks") })

	wholly := m.shows(all, func(s seen) bool {
		m.mustKubectl("exec", "client", "--namespace="+older, "--container=load", "--", "/bin/podapp", "get", "http://web.seen/hello")
		return s.All && s.has(older+"/client", "seen/web") && s.has("seen/client", "seen/web") && s.has(older+"/client", older+"/web")
	})
	if !strings.Contains(wholly.text, "/ns/"+older+"/sa/default") {
		t.Errorf("who sees all is not shown the identities of %s", older)
	}

	own := m.shows(one, func(s seen) bool { return s.has("(elsewhere)", "seen/web") && s.has("seen/client", "seen/web") })
	if own.All || !slices.Equal(own.Namespaces, []string{"seen"}) || strings.Contains(own.text, older) {
		t.Errorf("who may list the pods of the namespace seen is shown %s", own.text)
	}
	for _, w := range own.Workloads {
		if w.Intended == 0 || w.Verified != w.Pods {
			t.Errorf("%s: %d pods, of which the kernel confirms %d", w.ID, w.Pods, w.Verified)
		}
	}
	nothing := m.shows(none, func(seen) bool { return true })
	if len(nothing.Workloads)+len(nothing.Edges)+len(nothing.Namespaces) > 0 || strings.Contains(nothing.text, older) || strings.Contains(nothing.text, "seen") {
		t.Errorf("who may list no pods is shown %s", nothing.text)
	}
	for whose, token := range map[string]string{
		"nobody's": "", "made up": "a.b.c",
		"for the API server": m.mustKubectl("create", "token", "all", "--namespace=seen"),
		"for the CA":         m.mustKubectl("create", "token", "all", "--namespace=seen", "--audience=culvert-identity"),
	} {
		if status, body, err := m.ask(token); err != nil || status != "401" || strings.Contains(body, "seen") {
			t.Errorf("a token that is %s: %s %s %v", whose, status, body, err)
		}
	}
	for _, forbidden := range [][]string{
		{"get", "secrets", "--namespace=culvert-system"}, {"list", "pods", "--namespace=seen"}, {"create", "pods", "--subresource=exec", "--namespace=culvert-system"},
	} {
		_, err := m.kubectl(append([]string{"auth", "can-i", "--as=system:serviceaccount:culvert-system:culvert-map"}, forbidden...)...)
		if err == nil || !strings.HasSuffix(strings.TrimSpace(err.Error()), "no") { // it exits with 1
			t.Errorf("the map may %v: %v", forbidden, err)
		}
	}
}
