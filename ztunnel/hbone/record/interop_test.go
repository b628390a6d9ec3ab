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
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// closeWriter is a connection that says when no more comes.
type closeWriter interface {
	io.ReadWriter
	CloseWrite() error
}

// exchange sends size random bytes both ways at once, in writes of random sizes,
// and compares what arrives.
func exchange(t testing.TB, a, b closeWriter, size int) {
	t.Helper()
	var running sync.WaitGroup
	send := func(from, to closeWriter, seed uint64) {
		sent := make(chan [sha256.Size]byte, 1)
		running.Go(func() {
			random := rand.New(rand.NewPCG(seed, 0))
			hash := sha256.New()
			p := make([]byte, 600<<10)
			for left := size; left > 0; {
				n := min(left, 1+random.IntN(1<<(1+random.IntN(19))))
				for i := range p[:n] {
					p[i] = byte(random.Uint32())
				}
				hash.Write(p[:n])
				if _, err := from.Write(p[:n]); err != nil {
					t.Errorf("write: %v", err)
					break
				}
				left -= n
			}
			if err := from.CloseWrite(); err != nil {
				t.Errorf("CloseWrite: %v", err)
			}
			sent <- [sha256.Size]byte(hash.Sum(nil))
		})
		running.Go(func() {
			hash := sha256.New()
			n, err := io.Copy(hash, struct{ io.Reader }{to})
			if err != nil || int(n) != size {
				t.Errorf("received %d of %d bytes, %v", n, size, err)
			}
			if got := [sha256.Size]byte(hash.Sum(nil)); got != <-sent {
				t.Error("received other bytes than were sent")
			}
		})
	}
	send(a, b, 1)
	send(b, a, 2)
	running.Wait()
}

func TestRecordsAreExchangedWithCryptoTLS(t *testing.T) {
	for _, client := range []bool{true, false} {
		for _, theirs := range []struct {
			name string
			set  func(*tls.Config)
		}{
			{"plain", func(*tls.Config) {}},
			{"tickets", func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(1) }},
			{"dynamic record sizes", func(c *tls.Config) { c.DynamicRecordSizingDisabled = false }},
		} {
			t.Run(fmt.Sprintf("client=%v, %s", client, theirs.name), func(t *testing.T) {
				cfg := config() // tickets are on, unless it is ours
				theirs.set(cfg)
				ours, peer := mixed(t, client, cfg)
				exchange(t, ours, peer, 3<<20)
			})
		}
	}
}

func TestRecordsAreExchangedWithOurselves(t *testing.T) {
	client, server := pair(t)
	exchange(t, client, server, 8<<20)
}

func TestRecordsAreExchangedOverAnyConn(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	var serving sync.WaitGroup
	var server *Conn
	serving.Go(func() {
		var err error
		if server, _, err = Server(context.Background(), far, config()); err != nil {
			t.Error(err)
		}
	})
	client, _, err := Client(context.Background(), near, config())
	if err != nil {
		t.Fatal(err)
	}
	serving.Wait()
	exchange(t, client, server, 1<<20)
}

// corked holds back all writes but the first.
type corked struct {
	net.Conn
	begun bool
	held  bytes.Buffer
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		return c.Conn.Write(p)
	}
	return c.held.Write(p)
}

// TestDataRightBehindTheHandshakeIsNotLost has the peer's last flight, data and
// close_notify arrive in one piece, or cut anywhere in it.
func TestDataRightBehindTheHandshakeIsNotLost(t *testing.T) {
	for _, cut := range []int{0, 1, 5, 6, 7, 11, 100, 800, 1100, 5000} {
		near, far := sockets(t)
		early := fill(6000)
		var shaking sync.WaitGroup
		shaking.Go(func() {
			socket := &corked{Conn: far}
			peer := tls.Client(socket, config())
			peer.Write(early)
			peer.CloseWrite()
			far.SetWriteDeadline(time.Time{}) // CloseWrite has set one
			flight := socket.held.Bytes()
			far.Write(flight[:cut])
			far.Write(flight[cut:])
		})
		server, state, err := Server(context.Background(), near, config())
		if err != nil {
			t.Fatalf("cut after %d: %v", cut, err)
		}
		if len(state.PeerCertificates) != 1 || state.NegotiatedProtocol != "h2" {
			t.Errorf("state: %d certificates, %q", len(state.PeerCertificates), state.NegotiatedProtocol)
		}
		if got, err := io.ReadAll(server); !bytes.Equal(got, early) || err != nil {
			t.Errorf("cut after %d: got %d bytes, %v", cut, len(got), err)
		}
		shaking.Wait()
	}
}

func TestOnlyTLS13IsAccepted(t *testing.T) {
	for _, client := range []bool{true, false} {
		near, far := sockets(t)
		cfg := config()
		cfg.MaxVersion = tls.VersionTLS12
		ours, peer := Client, tls.Server(far, cfg)
		if !client {
			ours, peer = Server, tls.Client(far, cfg)
		}
		var shaking sync.WaitGroup
		shaking.Go(func() { peer.Handshake() })
		lenient := config()
		lenient.MinVersion = tls.VersionTLS10
		conn, _, err := ours(context.Background(), near, lenient)
		if err == nil || conn != nil {
			t.Errorf("client=%v: TLS 1.2 got through", client)
		}
		near.Close()
		shaking.Wait()
	}
}

func TestAPeerThatIsRefusedNeverGetsAConn(t *testing.T) {
	near, far := sockets(t)
	refused := errors.New("not this one")
	cfg := config()
	cfg.VerifyConnection = func(tls.ConnectionState) error { return refused }
	var shaking sync.WaitGroup
	shaking.Go(func() {
		peer := tls.Client(far, config())
		peer.Handshake()
		peer.Write([]byte("x"))
	})
	conn, _, err := Server(context.Background(), near, cfg)
	if conn != nil || !errors.Is(err, refused) {
		t.Errorf("got %v, %v", conn, err)
	}
	near.Close()
	shaking.Wait()
}

// TestARefusalByTheServerReachesTheClient has the server refuse when the client
// is already done; its alert is a record like any.
func TestARefusalByTheServerReachesTheClient(t *testing.T) {
	near, far := sockets(t)
	cfg := config()
	cfg.VerifyConnection = func(tls.ConnectionState) error { return errors.New("not this one") }
	var shaking sync.WaitGroup
	shaking.Go(func() { tls.Server(far, cfg).Handshake() })
	client, _, err := Client(context.Background(), near, config())
	if err != nil {
		t.Fatal(err)
	}
	expectEnd(t, client, "", 42, true)
	shaking.Wait()
}

func TestAHandshakeEndsWithItsContext(t *testing.T) {
	near, _ := sockets(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Client(ctx, near, config()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestAConfigThatChoosesAnotherIsRefused(t *testing.T) {
	cfg := config()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
	if _, _, err := Server(context.Background(), nil, cfg); err == nil {
		t.Error("GetConfigForClient was accepted")
	}
}

func TestTheCallersConfigStaysAsItIs(t *testing.T) {
	var keys bytes.Buffer
	cfg := config()
	cfg.KeyLogWriter = &keys
	near, far := sockets(t)
	var shaking sync.WaitGroup
	shaking.Go(func() { tls.Server(far, config()).Handshake() })
	if _, _, err := Client(context.Background(), near, cfg); err != nil {
		t.Fatal(err)
	}
	shaking.Wait()
	if keys.Len() != 0 || cfg.KeyLogWriter != &keys || cfg.SessionTicketsDisabled {
		t.Error("secrets went elsewhere, or the Config was changed")
	}
}

func TestSecretsAreTakenFromWellFormedLinesOnly(t *testing.T) {
	random, hex64 := bytes.Repeat([]byte("00"), 32), bytes.Repeat([]byte("ab"), 32)
	line := func(label string, digits []byte) []byte {
		return fmt.Appendf(nil, "%s %s %s\n", label, random, digits)
	}
	var s secrets
	for _, p := range [][]byte{
		line("CLIENT_HANDSHAKE_TRAFFIC_SECRET", hex64), line("EXPORTER_SECRET", hex64),
		line("CLIENT_TRAFFIC_SECRET_0", hex64), line("SERVER_TRAFFIC_SECRET_0", hex64[2:]),
	} {
		if _, err := s.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(s.client.bytes(), bytes.Repeat([]byte{0xab}, 32)) || len(s.server.bytes()) != 31 {
		t.Errorf("got %x, %x", s.client.bytes(), s.server.bytes())
	}
	for _, p := range [][]byte{line("CLIENT_TRAFFIC_SECRET_0", hex64)} {
		if _, err := s.Write(p); err == nil {
			t.Error("a second secret was taken")
		}
	}
	for _, digits := range [][]byte{[]byte("xy"), bytes.Repeat([]byte("ab"), 49), []byte("a")} {
		if _, err := new(secrets).Write(line("CLIENT_TRAFFIC_SECRET_0", digits)); err == nil {
			t.Errorf("%s was taken", digits)
		}
	}
	if s.forget(); s != (secrets{}) {
		t.Error("secrets survive")
	}
	if err := new(half).begin(suites[tls.TLS_AES_128_GCM_SHA256], make([]byte, 31)); err == nil {
		t.Error("a short secret was taken")
	}
}
