// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Whoever reaches the CA's ports can open connections and leave them. With 1,024
// descriptors, 1,100 of them on each port used to end it for everybody.
func TestIdlePeersWithoutCredentialsTakeNothingAway(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "culvert-identity")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	addr, metrics := freeAddresses(t)
	jwks, objects := filepath.Join(dir, "jwks.json"), filepath.Join(dir, "objects")
	token := nodeToken(t, jwks, nil)
	if err := os.Mkdir(objects, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(objects, "shop.yaml"), shop)
	cmd := exec.Command("sh", "-c", `ulimit -n 1024 && exec "$@"`, "sh", program, "-dir", filepath.Join(dir, "ca"), "-workloads", objects, "-jwks", jwks,
		"-listen", addr, "-metrics-address", metrics, "-dns-name", "ca.test", "-log-level", "error")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	ask := func() error {
		return node{t: t, token: token, client: dial(t, addr, filepath.Join(dir, "ca", "root.pem"))}.ask("spiffe://cluster.local/ns/shop/sa/web")
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	for _, to := range slices.Repeat([]string{addr, metrics}, 1100) {
		conn, err := net.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	for range 20 {
		start := time.Now()
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 3*time.Second { // without idle peers as well as with them it is some 10 ms
			t.Errorf("a node waited %v", took)
		}
	}
	answer, err := (&http.Client{Timeout: 3 * time.Second}).Get("http://" + metrics + "/healthz/ready")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}
