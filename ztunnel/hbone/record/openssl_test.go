// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

// openssl is a running s_client or s_server.
type openssl struct {
	stdin io.WriteCloser
	out   *transcript
}

// transcript is what a program has printed so far.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// forget drops what was printed so far.
func (t *transcript) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Reset()
}

// await waits until all of want was printed.
func (t *transcript) await(tb testing.TB, want string) {
	tb.Helper()
	for end := time.Now().Add(patience); !strings.Contains(t.String(), want); {
		if time.Now().After(end) {
			tb.Fatalf("openssl never printed %.60q, but\n%.3000s", want, t)
		}
		<-time.After(time.Millisecond)
	}
}

func startOpenSSL(t *testing.T, args ...string) *openssl {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skipf("needs openssl: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	cmd := exec.CommandContext(ctx, path, args...)
	o := &openssl{out: new(transcript)}
	cmd.Stdout, cmd.Stderr = o.out, o.out
	if o.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.stdin.Close()
		cancel()
		cmd.Wait()
	})
	return o
}

// withOpenSSL is ours on one end, of either role, and OpenSSL on the other.
func withOpenSSL(t *testing.T, client bool, args ...string) (*Conn, *openssl) {
	t.Helper()
	cert, key := writeIdentity(t)
	common := append([]string{"-tls1_3", "-cert", cert, "-key", key, "-CAfile", cert, "-alpn", "h2"}, args...)
	if client {
		addr := env.Address(t) // s_server binds by itself
		o := startOpenSSL(t, append([]string{"s_server", "-accept", addr, "-Verify", "1", "-naccept", "1"}, common...)...)
		conn, _, err := Client(context.Background(), dialWhenUp(t, addr), config())
		if err != nil {
			t.Fatalf("%v\n%s", err, o.out)
		}
		return conn, o
	}
	ln := listen(t)
	o := startOpenSSL(t, append([]string{"s_client", "-connect", ln.Addr().String(), "-verify_return_error"}, common...)...)
	ln.SetDeadline(time.Now().Add(patience))
	socket, err := ln.Accept()
	if err != nil {
		t.Fatalf("%v\n%s", err, o.out)
	}
	t.Cleanup(func() { socket.Close() })
	socket.SetDeadline(time.Now().Add(patience))
	conn, _, err := Server(context.Background(), socket, config())
	if err != nil {
		t.Fatalf("%v\n%s", err, o.out)
	}
	return conn, o
}

func dialWhenUp(t *testing.T, addr string) net.Conn {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp4", addr)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(patience))
			return conn
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// role names a subtest by what OpenSSL plays in it.
func role(client bool) string {
	if client {
		return "s_server"
	}
	return "s_client"
}

func TestBulkIsExchangedWithOpenSSL(t *testing.T) {
	for _, client := range []bool{true, false} {
		for _, cipher := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"} {
			for _, padding := range []string{"0", "512"} {
				t.Run(fmt.Sprint(role(client), " ", cipher, " padding ", padding), func(t *testing.T) {
					conn, o := withOpenSSL(t, client, "-ciphersuites", cipher, "-record_padding", padding, "-quiet")
					want := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz\n"), 3<<20/37)
					var sending sync.WaitGroup
					sending.Go(func() {
						if _, err := o.stdin.Write(want); err != nil {
							t.Error(err)
						}
					})
					sending.Go(func() {
						if _, err := conn.Write(want); err != nil {
							t.Error(err)
						}
					})
					got := make([]byte, len(want))
					if _, err := io.ReadFull(conn, got); err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
						t.Errorf("read %v, or other bytes", err)
					}
					sending.Wait()
					o.out.await(t, string(want))
				})
			}
		}
	}
}

func TestOpenSSLUpdatesItsKeyAndAsksForOurs(t *testing.T) {
	for _, client := range []bool{true, false} {
		t.Run(role(client), func(t *testing.T) {
			conn, o := withOpenSSL(t, client)
			say := func(command, line string) {
				t.Helper()
				in := conn.in.secret
				out := conn.out.secret
				fmt.Fprintln(o.stdin, command) // alone in a read, or it is data
				if client {
					awaitKeyUpdate(t, conn) // s_server sends it at once
				} else {
					o.out.await(t, "KEYUPDATE")
					o.out.forget()
				}
				fmt.Fprintln(o.stdin, line)
				got := make([]byte, len(line)+1)
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != line+"\n" {
					t.Fatalf("got %q, %v", got, err)
				}
				if conn.in.secret == in {
					t.Errorf("%s: OpenSSL's key is still the old one", command)
				}
				if _, err := conn.Write([]byte("ours to " + line + "\n")); err != nil {
					t.Fatal(err)
				}
				o.out.await(t, "ours to "+line)
				if asked := command == "K"; asked != (conn.out.secret != out) {
					t.Errorf("%s: our key changed: %v", command, !asked)
				}
			}
			say("k", "without asking")
			say("K", "asking")
			say("k", "again")
		})
	}
}

// awaitKeyUpdate receives until the peer's key has changed, and no data.
func awaitKeyUpdate(t *testing.T, c *Conn) {
	t.Helper()
	before := c.in.secret
	for end := time.Now().Add(patience); c.in.secret == before; {
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.Receive(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(end) {
			t.Fatalf("no KeyUpdate: %v", err)
		}
	}
	c.SetReadDeadline(time.Now().Add(patience))
}

// TestOpenSSLUpdatesItsKeyWhenAsked has both keys change by our limit.
func TestOpenSSLUpdatesItsKeyWhenAsked(t *testing.T) {
	for _, client := range []bool{true, false} {
		t.Run(role(client), func(t *testing.T) {
			conn, o := withOpenSSL(t, client, "-quiet")
			conn.keyLimit = 50
			in, out := conn.in.secret, conn.out.secret
			for i := range 150 {
				line := fmt.Sprintf("line %d\n", i)
				if _, err := io.WriteString(o.stdin, line); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(line))
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != line {
					t.Fatalf("got %q, %v", got, err)
				}
				if _, err := io.WriteString(conn, "re: "+line); err != nil {
					t.Fatal(err)
				}
				o.out.await(t, "re: "+line)
			}
			if conn.in.secret == in || conn.out.secret == out {
				t.Error("a key was not updated")
			}
		})
	}
}

// TestOpenSSLSaysGoodbye takes s_client's Q, which sends a close_notify, and
// s_server's, which does not.
func TestOpenSSLSaysGoodbye(t *testing.T) {
	for client, want := range map[bool]error{false: nil, true: io.ErrUnexpectedEOF} {
		conn, o := withOpenSSL(t, client)
		if _, err := io.WriteString(conn, "here\n"); err != nil {
			t.Fatal(err)
		}
		o.out.await(t, "here")
		fmt.Fprintln(o.stdin, "Q")
		if got, err := io.ReadAll(conn); len(got) > 0 || err != want {
			t.Errorf("%s: %q, %v; want %v", role(client), got, err, want)
		}
	}
}

func TestOpenSSLUnderstandsOurClose(t *testing.T) {
	conn, o := withOpenSSL(t, false)
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	o.out.await(t, "closed") // "read:errno=0" if it had been a mere FIN
	if strings.Contains(o.out.String(), "errno") {
		t.Errorf("s_client saw no close_notify:\n%s", o.out)
	}
}

func TestOtherCipherIsLeftToCryptoTLS(t *testing.T) {
	cert, key := writeIdentity(t)
	ln := listen(t)
	o := startOpenSSL(t, "s_client", "-connect", ln.Addr().String(), "-tls1_3", "-cert", cert, "-key", key,
		"-alpn", "h2", "-quiet", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256")
	fmt.Fprintln(o.stdin, "there") // may be read ahead
	socket, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	conn, state, err := Server(context.Background(), socket, config())
	var other *OtherCipher
	if conn != nil || !errors.Is(err, ErrUnsupported) || !errors.As(err, &other) {
		t.Fatalf("got %v, %v; want %v", conn, err, ErrUnsupported)
	}
	if state.CipherSuite != tls.TLS_CHACHA20_POLY1305_SHA256 || len(state.PeerCertificates) != 1 {
		t.Errorf("%s, %d certificates", tls.CipherSuiteName(state.CipherSuite), len(state.PeerCertificates))
	}
	got := make([]byte, len("there\n"))
	if _, err := io.ReadFull(other.Conn, got); err != nil || string(got) != "there\n" {
		t.Errorf("got %q, %v", got, err)
	}
	fmt.Fprintln(other.Conn, "and back")
	o.out.await(t, "and back")
}
