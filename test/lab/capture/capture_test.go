// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// capturing returns a capture of a new netns, and a connection in it.
func capturing(t *testing.T, network, addr string) (c *Capture, near, far net.Conn) {
	t.Helper()
	ns := env.NewNetns(t)
	err := env.InNetns(ns, func() (err error) {
		if c, err = Open(Config{}); err != nil {
			return err
		}
		ln, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		defer ln.Close()
		if near, err = net.Dial(network, ln.Addr().String()); err != nil {
			return err
		}
		far, err = ln.Accept()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		far.Close()
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c, near, far
}

func TestPlaintextIsFoundAcrossPackets(t *testing.T) {
	env.Need(t, env.Netns)
	for network, addr := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		c, near, far := capturing(t, network, addr)
		for _, part := range []string{"the card number ", "is 4711"} {
			if _, err := io.WriteString(near, part); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(far, make([]byte, len(part))); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := c.Contains([]byte("number is 4711")); !found || err != nil {
			t.Errorf("%s: found %v, %v", network, found, err)
		}
		if found, err := c.Contains([]byte("number is 4712")); found || err != nil {
			t.Errorf("%s: found what was never sent: %v, %v", network, found, err)
		}
		flows, err := c.Flows(nil)
		if err != nil || len(flows) != 1 {
			t.Fatalf("%s: flows %v, %v", network, flows, err)
		}
		f := flows[0]
		if f.Client.String() != near.LocalAddr().String() || f.Server.String() != far.LocalAddr().String() {
			t.Errorf("%s: flow %v", network, f)
		}
		if !f.Opened || !f.Accepted || f.Reset || string(f.Up) != "the card number is 4711" || f.TLS().Only {
			t.Errorf("%s: flow %+v", network, f)
		}
	}
}

func TestTLSIsRecognisedByItsRecords(t *testing.T) {
	env.Need(t, env.Netns)
	c, near, far := capturing(t, "tcp4", "127.0.0.1:0")
	secret := strings.Repeat("secret", 100)
	done := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certstest.NewCA().TLS()}}), make([]byte, len(secret)))
		done <- err
	}()
	groups := []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	conn := tls.Client(near, &tls.Config{InsecureSkipVerify: true, CurvePreferences: groups})
	if _, err := io.WriteString(conn, secret); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	flows, err := c.Flows(nil)
	if err != nil || len(flows) != 1 {
		t.Fatalf("flows %v, %v", flows, err)
	}
	got := flows[0].TLS()
	if got.Version != tls.VersionTLS13 || !got.Only || got.Records[ApplicationData] == 0 {
		t.Errorf("TLS %+v", got)
	}
	if got.Group != tls.X25519MLKEM768 || !slices.Equal(got.Offered, groups) {
		t.Errorf("the group %v of %v", got.Group, got.Offered)
	}
	if found, err := c.Contains([]byte("secretsecret")); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestAnIncompleteCaptureNeverSaysNo(t *testing.T) {
	env.Need(t, env.Netns)
	c, near, far := capturing(t, "tcp4", "127.0.0.1:0")
	c.mu.Lock()
	c.room = 4
	c.mu.Unlock()
	if _, err := io.WriteString(near, "longer than the room left"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if found, err := c.Contains([]byte("elephant")); found || err == nil {
		t.Errorf("found %v, %v", found, err)
	}
	c.mu.Lock()
	c.truncated = false // for the cleanup's Stop
	c.mu.Unlock()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x45\x00\x00\x28\x00\x00\x00\x00\x40\x06\x00\x00\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x50\x00\x51\x00\x00\x00\x01\x00\x00\x00\x02\x50\x12\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, ok := parse(data); ok {
			for _, flow := range flows([]packet{p, p}) {
				flow.TLS()
			}
		}
		selected(data)
	})
}
