// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// certKeeper is cert-manager's controller, beside a running cluster that has its kinds.
type certKeeper struct {
	*running
	stop func()
}

func startCertManager(c *running) *certKeeper {
	c.t.Helper()
	dir, err := binaries.CertManager(c.t.Context(), ".", io.Discard)
	if err != nil {
		c.t.Fatal(err)
	}
	kinds := filepath.Join(dir, "kinds.yaml")
	c.t.Cleanup(func() { _, _ = c.kubectl("delete", "--filename="+kinds, "--wait=false") })
	c.mustKubectl("apply", "--server-side", "--filename="+kinds)
	c.mustKubectl("wait", "--for=condition=Established", "--filename="+kinds)
	cmd := exec.Command(filepath.Join(dir, "certmanager"), "-kubeconfig", cluster.Kubeconfig(c.name), "-namespace", "culvert-system")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := startProcess(cmd); err != nil {
		c.t.Fatal(err)
	}
	m := &certKeeper{running: c}
	m.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("cert-manager:\n%s", log.Bytes()[max(0, log.Len()-4000):])
		}
	})
	c.t.Cleanup(m.stop)
	return m
}

// renew has cert-manager replace a Certificate now, as cmctl renew does.
func (m *certKeeper) renew(name string) {
	m.t.Helper()
	m.mustKubectl("patch", "certificate", name, "--namespace=culvert-system", "--subresource=status", "--type=merge", "--patch",
		`{"status":{"conditions":[{"type":"Issuing","status":"True","reason":"ManuallyTriggered","message":"renewed by hand","lastTransitionTime":"`+
			time.Now().UTC().Format(time.RFC3339)+`"}]}}`)
}

// kept waits until cert-manager has filled the Secret of a Certificate.
func (m *certKeeper) kept(name string) {
	m.t.Helper()
	m.mustKubectl("wait", "--for=condition=Ready", "certificate/"+name, "--namespace=culvert-system", "--timeout=60s")
}

// startCAOf starts the CA on node1 whose Secret cert-manager keeps.
func (m *mesh) startCAOf(secret string) {
	m.t.Helper()
	m.runOn("node1", "culvert-identity", insideMesh+"/culvert-identity", "-secret", "culvert-system/"+secret, "-existing-ca",
		"-root-configmap", "culvert-system/culvert-root", "-kubeconfig", insideMesh+"/kubeconfig",
		"-jwks", insideMesh+"/jwks.json", "-issuer", "https://kubernetes.default.svc", "-ttl", "25s")
	var root string
	eventually(m.t, func() (err error) {
		root, err = m.kubectl("get", "configmap", "culvert-root", "--namespace=culvert-system", `--output=jsonpath={.data.root\.pem}`)
		return err
	})
	for _, node := range bothNodes {
		m.write(node, "root.pem", root+"\n")
	}
}

// caEvents is how often what happened to the CA, by its metrics.
func (m *mesh) caEvents(reason string) (int, error) {
	text, err := m.tryEnter("node1", "curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:15014/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if count, found := strings.CutPrefix(line, `culvert_identity_ca_events_total{event="`+reason+`"} `); found {
			return strconv.Atoi(strings.TrimSpace(count))
		}
	}
	return 0, fmt.Errorf("no count of %s", reason)
}

// awaitCAEvents waits until what happened to the CA has happened so often.
func (m *mesh) awaitCAEvents(reason string, want int) {
	m.t.Helper()
	eventually(m.t, func() error {
		if got, err := m.caEvents(reason); err != nil || got < want {
			return fmt.Errorf("%s: %d times, want %d: %v", reason, got, want, err)
		}
		return nil
	})
}

// issuers are the serial numbers of the issuers of a node's leaves.
func (m *mesh) issuers(node string) (serials map[string]bool, err error) {
	text, err := m.tryEnter(node, "curl", "--silent", "--fail", "http://127.0.0.1:15000/config_dump")
	if err != nil {
		return nil, err
	}
	var dump struct {
		Certificates []struct {
			CertChain []struct{ SerialNumber string }
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		return nil, err
	}
	serials = map[string]bool{}
	for _, one := range dump.Certificates {
		if len(one.CertChain) < 2 {
			return nil, fmt.Errorf("a chain of %d certificates", len(one.CertChain))
		}
		serials[one.CertChain[1].SerialNumber] = true
	}
	return serials, nil
}

// A002-17, A002-19, A004-7, A004-8, A004-14, T-ISSUER: cert-manager's Secret is the CA, and
// each of ten replacements is taken while pods talk, and costs none of them a connection.
// A004-19: the first of them is of another lifetime, which is edited in the Certificate.
func TestTheIssuerThatCertManagerKeepsIsReplacedTenTimesUnderLoad(t *testing.T) {
	c := useShared(t)
	var keeper *certKeeper
	m := startMeshOf(c, func(m *mesh) {
		keeper = startCertManager(c)
		t.Cleanup(func() {
			_, _ = c.kubectl("delete", "--filename=testdata/certmanager.yaml", "--ignore-not-found", "--wait=false")
		})
		c.mustKubectl("apply", "--filename=testdata/certmanager.yaml")
		keeper.kept("cacerts")
		m.startCAOf("cacerts")
	})
	s := c.openShop("shop-kept", "culvert.dev/mesh=enabled")
	m.awaitEnrolled(s.namespace)
	begin := time.Now().Add(time.Second)
	eventually(t, func() error { return s.allWell(begin) })

	keeper.takesLinkerds()
	seen := map[string]bool{}
	for round := range 10 {
		asked := time.Now()
		if round == 0 {
			c.mustKubectl("patch", "certificate", "cacerts", "--namespace=culvert-system", "--type=merge", "--patch", `{"spec":{"duration":"720h"}}`)
		} else {
			keeper.renew("cacerts")
		}
		m.awaitCAEvents("IssuerUpdated", round+1)
		t.Logf("round %d: another issuer after %.1f s", round, time.Since(asked).Seconds())
		serials, err := m.issuers("node1")
		if err != nil {
			t.Fatal(err)
		}
		for serial := range serials {
			seen[serial] = true
		}
	}
	m.signsFor("cacerts", 720*time.Hour)
	// What is broken is refused, and the issuer in force signs on. cert-manager would mend it.
	tip := c.mustKubectl("get", "secret", "cacerts", "--namespace=culvert-system", `--output=jsonpath={.data.tls\.crt}`)
	keeper.stop()
	c.mustKubectl("patch", "secret", "cacerts", "--namespace=culvert-system", "--patch", `{"data":{"tls.crt":"Z2FyYmFnZQ=="}}`)
	m.awaitCAEvents("IssuerValidationFailed", 1)
	for _, node := range bothNodes { // leaves of 25 s are renewed meanwhile
		eventually(t, func() error {
			serials, err := m.issuers(node)
			if err == nil && (len(serials) != 1 || !serials[serialOf(t, tip)]) {
				err = fmt.Errorf("%s: leaves of the issuers %v, want %s", node, serials, serialOf(t, tip))
			}
			return err
		})
	}
	if err := s.allWell(begin); err != nil {
		t.Error(err)
	}
	t.Logf("leaves of %d issuers were seen on node1", len(seen))
	for reason, want := range map[string]string{
		"IssuerUpdated": "another issuer signs: CN=istiod.istio-system.svc", "IssuerValidationFailed": "the issuer in force stays: CN=istiod.istio-system.svc",
	} {
		events := c.mustKubectl("get", "events", "--namespace=culvert-system", "--field-selector=reason="+reason+",involvedObject.name=cacerts", "--output=jsonpath={.items[*].message}")
		if log := last(m.log("node1", "culvert-identity"), 200); !strings.Contains(events, want) || !strings.Contains(log, want) {
			t.Errorf("%s: Events %q, log\n%s", reason, events, log)
		}
	}
}

// signsFor wants the issuer in a Secret, which signs, to live for so long.
func (m *mesh) signsFor(secret string, life time.Duration) {
	m.t.Helper()
	text := m.mustKubectl("get", "secret", secret, "--namespace=culvert-system", `--output=jsonpath={.data.tls\.crt}`)
	cert := certificateOf(m.t, text)
	if is := cert.NotAfter.Sub(cert.NotBefore); (is - life).Abs() > time.Minute {
		m.t.Errorf("the issuer lives for %v, want %v", is, life)
	}
}

// takesLinkerds is A002-17: a CA of two days, by ECDSA, in a Secret that comes after its CA.
func (m *certKeeper) takesLinkerds() {
	m.t.Helper()
	c := &cas{running: m.running, program: filepath.Join(buildMesh(m.t), "culvert-identity")}
	r := c.start(cluster.Kubeconfig(m.name), "-secret", "culvert-system/linkerd-identity-issuer", "-root-configmap", "culvert-system/linkerd-root", "-existing-ca")
	m.kept("linkerd-identity-issuer")
	c.awaitStatus(r, "ready\n")
	before := c.issuer(r)
	m.renew("linkerd-identity-issuer")
	eventually(m.t, func() error {
		if c.issuer(r) == before {
			return errors.New("the former issuer signs still")
		}
		return nil
	})
	r.stop()
	for _, want := range []string{`"layout":"certmanager"`, "another issuer signs: CN=identity.linkerd.cluster.local"} {
		if !strings.Contains(r.log.String(), want) {
			m.t.Errorf("the log has no %s:\n%s", want, &r.log)
		}
	}
}

// serialOf is the serial number of a certificate in base64 of PEM, as a dump has it.
func serialOf(t *testing.T, text string) string {
	t.Helper()
	return certificateOf(t, text).SerialNumber.String()
}

// certificateOf is the first certificate in base64 of PEM.
func certificateOf(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	var block *pem.Block
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		block, _ = pem.Decode(decoded)
	}
	if block == nil {
		t.Fatalf("no PEM in %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
