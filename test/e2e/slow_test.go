// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// The bound on what a ztunnel may grow by: two windows for each slow reader,
// one of bytes and one of Go's heap not yet collected.
const (
	slowReaders = 16
	slowGrowth  = slowReaders * 2 << 20
)

func TestServersThatDoNotReadHoldBackOnlyTheirClients(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	s.passersby(s.two)
	start := []int64{s.resident(s.one), s.resident(s.two)}
	s.overPaths(func(p *path) {
		flows := make([]*slowFlow, slowReaders)
		for i := range flows {
			flows[i] = new(slowFlow)
			flows[i].near, flows[i].far, flows[i].to = p.connected()
		}
		p.fill(flows)
		for i, n := range p.Nodes {
			grown := p.resident(n) - start[i]
			p.Logf("ztunnel of %s grew by %d MiB", n.Name, grown>>20)
			if grown > slowGrowth {
				p.Errorf("ztunnel of %s grew by %d MiB, want at most %d", n.Name, grown>>20, slowGrowth>>20)
			}
		}
		// The tunnel that they share is open to others.
		to := p.target()
		p.serve(p.server.Place, agent.Echo, to.Port())
		began := time.Now()
		p.must(p.client.Ping(p.ctx, p.network, to, "in between"))
		if took := time.Since(began); took > 5*time.Second { // else it waits for the readers, for ever
			p.Errorf("an echo beside %d blocked connections took %v", slowReaders, took)
		}
		for _, f := range flows {
			p.read(f)
		}
	})
}

// slowFlow is a connection whose server does not read yet.
type slowFlow struct {
	near, far *agent.Conn
	to        netip.AddrPort
	sent      []int64 // by round, of the stream that the round's number names
}

// fill has the clients send until none of them gets rid of another byte.
func (p *path) fill(flows []*slowFlow) {
	p.Helper()
	p.within(30*time.Second, func() string {
		moved := false
		var group errgroup.Group
		for _, f := range flows {
			group.Go(func() error {
				got, err := f.near.Transfer(p.ctx, agent.Transfer{
					Send: 1 << 30, Seed: uint64(len(f.sent)), Open: true, Timeout: 400 * time.Millisecond})
				f.sent = append(f.sent, got.Sent)
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					return err
				}
				return nil
			})
		}
		p.must(group.Wait())
		for _, f := range flows {
			moved = moved || f.sent[len(f.sent)-1] > 0
		}
		if moved {
			return "clients still get rid of bytes that no server reads"
		}
		return ""
	})
}

// read has the server take at last what was sent, and compares it. By then both
// have finished, and the client has left.
func (p *path) read(f *slowFlow) {
	p.Helper()
	hash, size := sha256.New(), int64(0)
	for round, n := range f.sent {
		_, err := io.CopyN(hash, agent.Stream(uint64(round)), n)
		p.must(err)
		size += n
	}
	p.must(errors.Join(f.far.CloseWrite(), f.near.Close()))
	got, err := f.far.Transfer(p.ctx, agent.Transfer{Receive: -1})
	p.must(err)
	if got.Received != size || got.ReceivedHash != hex.EncodeToString(hash.Sum(nil)) {
		p.Errorf("the server read %d bytes, of %d, or other ones", got.Received, size)
	}
	p.must(f.far.Close())
	p.carried(f.to, size, 0)
}
