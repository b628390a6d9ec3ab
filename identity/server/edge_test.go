// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"crypto/tls"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// A003-12, A003-15, A004-3: the bundle endpoint is what the world outside may reach. By https_web
// it shows a certificate that is no SVID, speaks nothing older than TLS 1.2, and another
// certificate ends no connection.
func TestTheEndpointForOthersShowsACertificateOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	write := func() (cert string) {
		pair, key := webPair(t)
		for name, text := range map[string][]byte{"tls.crt": pair, "tls.key": key} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return string(pair)
	}
	first := write()
	w := NewWebCertificate(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), slog.New(slog.DiscardHandler))
	_, url := endpointOf(t, func(*ca.CA) func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return w.Get })
	address := strings.TrimSuffix(strings.TrimPrefix(url, "https://"), "/")
	dial := func(version uint16) (*tls.Conn, error) {
		return tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
	}
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := dial(version)
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
	shown := func(conn *tls.Conn) string {
		leaf := conn.ConnectionState().PeerCertificates[0]
		if len(leaf.URIs) > 0 {
			t.Errorf("it shows an identity of the mesh: %v", leaf.URIs)
		}
		return string(ca.EncodeCerts(conn.ConnectionState().PeerCertificates))
	}
	open := func() *tls.Conn {
		conn, err := dial(tls.VersionTLS13)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	before := open()
	second := write()
	w.mu.Lock()
	w.looked = time.Time{} // it is time to look
	w.mu.Unlock()
	if after := open(); shown(before) != first || shown(after) != second {
		t.Error("it does not show what the files hold")
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err == nil {
		err = request.Write(before)
	}
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(before), request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("a connection from before the change: %v, %v", response, err)
	}
}
