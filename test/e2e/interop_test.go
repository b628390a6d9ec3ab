// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// mix is a path with our ztunnel at one end and Istio's at the other.
type mix struct {
	*path
	istio *istio
}

// Istio's ztunnel at one end, ours at the other.
//
//	ISTIO_ZTUNNEL=/path/to/ztunnel go test ./test/e2e -run Istio
func TestIstiosZtunnelAndOursCarryEachOthersPods(t *testing.T) {
	program := os.Getenv("ISTIO_ZTUNNEL")
	if program == "" {
		t.Skip("ISTIO_ZTUNNEL does not name a release build of Istio's ztunnel")
	}
	s := tellAlone(t, lab.Options{ZtunnelArgs: []string{"-id-at-source=enforce"}}, "mesh")
	ours, theirs, z := tellIstio(s, program)
	for _, way := range []struct {
		name           string
		client, server *lab.Pod
	}{{"ours to theirs", ours, theirs}, {"theirs to ours", theirs, ours}} {
		s.Run(way.name, func(t *testing.T) {
			sub := *s
			sub.T = t
			sub.overBoth(func(s *story, network string) {
				m := &mix{istio: z, path: &path{story: s, network: network, client: way.client, server: way.server, unnamed: way.server == theirs}}
				m.awaitBoth()
				m.each("bytes both ways at once", func(m *mix) { m.exchange(1, agent.Transfer{Send: 64 << 20}) })
				m.each("64 streams at once", func(m *mix) { m.exchange(64, agent.Transfer{Send: 2 << 20}) })
				m.each("tiny writes, as databases write", (*mix).writeTiny)
				m.each("tiny writes that nobody reads yet", (*mix).writeUnread)
				m.each("tiny questions and answers", (*mix).takeTurns)
				m.each("one end finishes first", (*mix).halfClose)
				m.each("one end breaks off", (*mix).breakOff)
				m.each("theirs drains", (*mix).theirsDrains)
				m.each("ours drains", (*mix).oursDrains)
			})
		})
	}
	s.Run("theirs shows another pod's leaf", func(t *testing.T) {
		sub := *s
		sub.T, sub.ctx = t, t.Context()
		sub.showsAnothersLeaf(z, ours, theirs)
	})
}

// N-8, A002-9: a node may have the leaf of each of its pods. One that is shown from the address
// of another pod of the node is refused, and from its own it is carried. Ours asks where Istio's
// ztunnel dials from, and it dials from the pod's address.
func (s *story) showsAnothersLeaf(z *istio, ours, theirs *lab.Pod) {
	s.Helper()
	other := s.pod(s.two, "other", func(p *lab.PodSpec) { p.Unmeshed = true })
	s.serve(ours.Place, agent.Echo, 8080)
	carried := func(network string) error { return theirs.Ping(s.ctx, network, ours.At(network, 8080), "ping") }
	both := []string{"tcp4", "tcp6"}

	z.takeFor(ours, other.ServiceAccount)
	for _, network := range both {
		refused := func(r lab.Record) bool {
			return r.Get("direction") == "inbound" && r.Get("result") == "id_not_at_source" && r.Get("src.identity") == other.SPIFFEID("cluster.local") &&
				strings.HasPrefix(r.Get("dst.hbone_addr"), ours.At(network, 8080).String())
		}
		s.eventually("ours refuses it over "+network, func() bool {
			if carried(network) == nil {
				s.Fatalf("over %s the leaf of %s was carried from the address of %s", network, other, theirs)
			}
			records, err := s.one.Records()
			s.must(err)
			return slices.ContainsFunc(records, refused)
		})
	}

	z.takeFor(ours, theirs.ServiceAccount)
	for _, network := range both {
		s.eventually("its own leaf is carried over "+network, func() bool { return carried(network) == nil })
		s.record(s.one, "direction", "inbound", "src.identity", theirs.SPIFFEID("cluster.local"), "dst.hbone_addr", ours.At(network, 8080).String(), "result", "ok")
	}
}

func (m *mix) each(name string, tell func(m *mix)) {
	m.Run(name, func(t *testing.T) {
		s, p, sub := *m.story, *m.path, *m
		s.T, s.ctx = t, t.Context()
		p.story, sub.path = &s, &p
		tell(&sub)
	})
}

// awaitBoth waits until both ztunnels carry.
func (m *mix) awaitBoth() {
	m.Helper()
	to := m.target()
	m.serve(m.server.Place, agent.Echo, to.Port())
	m.eventually("both ztunnels carry", func() bool { return m.client.Ping(m.ctx, m.network, to, "hello") == nil })
}

// said asserts how ours recorded the connection to a target of its own: as
// carried between the two identities, ended by one of the words.
func (m *mix) said(to netip.AddrPort, words ...string) lab.Record {
	m.Helper()
	direction := "inbound"
	if m.client.Node == m.one {
		direction = "outbound"
	}
	r := m.record(m.one, "direction", direction, "dst.hbone_addr", to.String(), "path", "tunnel",
		"src.identity", m.client.SPIFFEID("cluster.local"), "dst.identity", m.server.SPIFFEID("cluster.local"))
	for _, word := range words {
		if r.Get("result") == word {
			return r
		}
	}
	m.Errorf("recorded as %q, want %q: %v", r.Get("result"), words, r)
	return r
}

// exchange has both ends of some connections send at once, each its own bytes,
// and compares what arrived.
func (m *mix) exchange(count int, t agent.Transfer) {
	m.Helper()
	all := make([]ends, count)
	for i := range all {
		all[i].first, all[i].second, all[i].to = m.connected()
	}
	m.exchangeOver(all, t, 0)
}

// exchangeOver is exchange over connections that carried some bytes each way.
func (m *mix) exchangeOver(all []ends, t agent.Transfer, before int) {
	m.Helper()
	t.Receive = -1
	group, ctx := errgroup.WithContext(m.ctx)
	for i, e := range all {
		for side, conn := range []*agent.Conn{e.first, e.second} {
			own, other := t, uint64(2*i+1-side)
			own.Seed = uint64(2*i + side)
			group.Go(func() error {
				got, err := conn.Transfer(ctx, own)
				if err == nil && got.ReceivedHash != agent.StreamHash(other, t.Send) {
					m.Errorf("stream %d: of %d bytes %d arrived, or others", i, t.Send, got.Received)
				}
				return err
			})
		}
	}
	m.must(group.Wait())
	for _, e := range all {
		m.must(errors.Join(e.first.Close(), e.second.Close()))
		r, want := m.said(e.to, "ok"), float64(t.Send)+float64(before)
		if r.Fields["bytes_sent"] != want || r.Fields["bytes_recv"] != want {
			m.Errorf("recorded %v bytes sent and %v received, want %v", r.Fields["bytes_sent"], r.Fields["bytes_recv"], want)
		}
	}
}

func (m *mix) writeTiny() {
	m.exchange(1, agent.Transfer{Send: 1 << 20, Tiny: 200})
	m.exchange(64, agent.Transfer{Send: 32 << 10, Tiny: 200})
}

// writeUnread has an app read only after ten thousand tiny writes: a peer of h2
// 0.4.16 or later closes the tunnel if it holds too many small frames. Another
// stream of the tunnel must not notice.
func (m *mix) writeUnread() {
	beside, echo, _ := m.connected()
	for _, e := range m.bothEnds() {
		const size = 1 << 20
		_, err := e.first.Transfer(m.ctx, agent.Transfer{Send: size, Seed: 6, Tiny: 200})
		m.must(err)
		m.must(beside.Send(m.ctx, []byte("still there?")))
		_, err = echo.ReceiveFull(m.ctx, len("still there?"))
		m.must(err)
		got, err := e.second.Transfer(m.ctx, agent.Transfer{Receive: -1})
		m.must(err)
		if got.ReceivedHash != agent.StreamHash(6, size) {
			m.Errorf("the %s sent %d bytes, and %d or others arrived", e.name, size, got.Received)
		}
		m.must(errors.Join(e.first.Close(), e.second.Close()))
		m.said(e.to, "ok")
	}
}

// takeTurns awaits an answer to each of some thousand tiny messages.
func (m *mix) takeTurns() {
	to := m.target()
	m.serve(m.server.Place, agent.Echo, to.Port())
	conn, err := m.client.Dial(m.ctx, m.network, to)
	m.must(err)
	const size = 256 << 10
	got, err := conn.Transfer(m.ctx, agent.Transfer{Send: size, Seed: 7, Tiny: 200, Turns: true})
	m.must(err)
	if got.ReceivedHash != agent.StreamHash(7, size) {
		m.Errorf("of %d bytes %d came back, or others", size, got.Received)
	}
	_, err = readAll(m.ctx, conn) // the echo of the end
	m.must(errors.Join(err, conn.Close()))
	m.said(to, "ok")
}

func (m *mix) halfClose() {
	for _, e := range m.bothEnds() {
		m.finishesFirst(e, 16<<20)
		m.said(e.to, "ok")
	}
}

// breakOff has an app reset its connection. To the other app Istio's ztunnel
// may pass that on as an end of data; it must be told somehow, and nothing may
// be left of the connection.
func (m *mix) breakOff() {
	for _, when := range []struct {
		name     string
		breakOff func(p *path, e ends) error
	}{{"idle", resetIdle}, {"having sent", resetAfterSending}, {"while being sent to", resetWhileSentTo}, {"owing an answer", resetOwingAnswer}} {
		for _, e := range m.bothEnds() {
			m.greet(e)
			err := when.breakOff(m.path, e)
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				m.Errorf("the %s breaks off %s: the other sees %v", e.name, when.name, err)
			}
			m.must(e.second.Close())
			r := m.said(e.to, "ok", "reset")
			m.Logf("the %s breaks off %s: the other sees %v, ours says %s", e.name, when.name, err, r.Get("result"))
		}
	}
}

// theirsDrains has Istio's ztunnel end while a connection is open: that may go
// on, no other begins, and the next one is carried by a new tunnel.
func (m *mix) theirsDrains() {
	m.outlives(m.istio.pod, m.istio.leave, m.istio.again)
}

// oursDrains is the same with ours.
func (m *mix) oursDrains() {
	m.outlives(m.ours(), func() {
		m.must(m.one.Ztunnel.Signal(syscall.SIGTERM))
	}, func() {
		<-m.one.Ztunnel.Done()
		m.must(m.one.StartZtunnel(m.ctx, lab.ZtunnelOptions{}))
	})
}

// ours is the pod whose ztunnel is ours.
func (m *mix) ours() *lab.Pod {
	if m.client.Node == m.one {
		return m.client
	}
	return m.server
}

// outlives moves bytes through a connection that was open before. Another is
// open until they have arrived: with its last connection Istio's ztunnel ends,
// and with it what its HTTP/2 has yet to send.
func (m *mix) outlives(pod *lab.Pod, leave, again func()) {
	before, last := make([]ends, 1), ends{}
	for _, e := range []*ends{&before[0], &last} {
		e.first, e.second, e.to = m.connected()
		m.greet(*e)
	}
	leave()
	m.eventually("no tunnel is accepted any more", func() bool {
		conn, err := m.Outside.DialUnsteered(m.ctx, pod.At(m.network, 15008))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	m.exchangeOver(before, agent.Transfer{Send: 8 << 20}, len("hello"))
	m.greet(last)
	m.must(errors.Join(last.first.Close(), last.second.Close()))
	again()
	m.awaitBoth()
	m.exchange(1, agent.Transfer{Send: 1 << 20})
}
