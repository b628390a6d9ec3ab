// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// asPeer is set in a process that plays the other node.
const asPeer = "HBONE_PEER_OF"

// wantCipher opens a tunnel to addr, has a message echoed, and looks at what
// both of the link's ends say of their tunnels.
func (l *link) wantCipher(addr netip.AddrPort, want, records string) {
	l.t.Helper()
	a := l.openKey(Key{serverID, addr})
	message := strings.Repeat("message ", 40<<10)
	go io.WriteString(a, message)
	a.wantRead(message)
	for _, told := range append(l.pool.Tunnels(), l.ln.Tunnels()...) {
		if told.Cipher != want || told.Records != records || told.Group != "X25519MLKEM768" {
			l.t.Errorf("%+v, want %s by %s", told, want, records)
		}
	}
	l.pool.Retire(Denied) // and nothing is left of it
	waitUntil(l.t, func() bool { return len(l.pool.Tunnels())+len(l.ln.Tunnels()) == 0 })
}

const (
	aes    = "TLS_AES_128_GCM_SHA256"
	chacha = "TLS_CHACHA20_POLY1305_SHA256"
)

// crypto/tls chooses by the hardware of both: all four pairs of a node with AES
// instructions and one without speak, as client and as server.
func TestNodesWithAndWithoutAESInstructionsSpeak(t *testing.T) {
	if ca := os.Getenv(asPeer); ca != "" {
		otherNode(t, ca)
		return
	}
	l := newLinkOf(t, OwnRecords, nil)
	l.wantCipher(l.key.Addr, aes, "own")

	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "GODEBUG=cpu.aes=off", asPeer+"="+l.ca.text(t))
	to, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	from := bufio.NewScanner(io.TeeReader(out, &said))
	next := func() string {
		for from.Scan() {
			if word, ok := strings.CutPrefix(from.Text(), "peer: "); ok {
				return word
			}
		}
		t.Fatalf("the other node says no more:\n%s", said.String())
		panic("unreachable")
	}
	defer func() {
		to.Close()
		for from.Scan() {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the other node: %v\n%s", err, said.String())
		}
	}()
	theirs := netip.MustParseAddrPort(next())
	l.wantCipher(theirs, chacha, "std") // only we have them, as client
	fmt.Fprintln(to, l.key.Addr)        // only we have them, as server
	if got := next(); got != "done" {
		t.Error(got)
	}
}

// otherNode is a process without AES instructions.
func otherNode(t *testing.T, ca string) {
	l := newLinkBy(t, authorityFrom(t, ca), OwnRecords, nil)
	l.wantCipher(l.key.Addr, chacha, "std") // neither side has them
	fmt.Println("peer:", l.key.Addr)
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	l.wantCipher(netip.MustParseAddrPort(in.Text()), chacha, "std")
	fmt.Println("peer: done")
	in.Scan() // until the other is done, too
}

// text is the authority with its key.
func (a *authority) text(t testing.TB) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(a.root.Key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(key) + " " + base64.StdEncoding.EncodeToString(a.root.Cert.Raw)
}

func authorityFrom(t testing.TB, text string) *authority {
	t.Helper()
	var parts [2][]byte
	for i, part := range strings.Fields(text) {
		der, err := base64.StdEncoding.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = der
	}
	key, err := x509.ParsePKCS8PrivateKey(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return &authority{&certstest.Signer{Cert: cert, Key: key.(crypto.Signer)}}
}
