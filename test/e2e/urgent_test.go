// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// Telnet and FTP interrupt with an urgent byte, which their servers read among
// the others (SO_OOBINLINE). It arrives in its place, whoever carries it.
func TestUrgentBytesArriveInTheirPlace(t *testing.T) {
	s := tell(t, "mesh")
	s.overPaths((*path).interrupts)
	out := func(spec *lab.PodSpec) { spec.Labels["culvert.dev/mesh"] = "disabled" }
	client, plain := s.pod(s.one, "in", nil), s.pod(s.two, "out", out)
	s.overBoth(func(s *story, network string) {
		(&path{story: s, network: network, client: client, server: plain}).interrupts()
		(&path{story: s, network: network, client: plain, server: client}).interrupts()
	})
}

// interrupts sends urgent bytes both ways: first, last before the end, several
// in a row, and around 64 KiB.
func (p *path) interrupts() {
	p.Helper()
	ln, to := p.listen()
	for _, inline := range []int{0, 1} {
		for _, parts := range [][]int{
			{1}, {1, 1, 1}, {1, 5}, {64<<10 - 1, 1}, {64 << 10, 64<<10 + 1}, {200 << 10, 1, 1, 100 << 10},
		} {
			near, far := p.dial(ln, to)
			group := errgroup.Group{}
			for _, ends := range [][2]*agent.Conn{{near, far}, {far, near}} {
				from, to := ends[0], ends[1]
				p.must(to.SetOption(p.ctx, agent.Option{Level: unix.SOL_SOCKET, Name: unix.SO_OOBINLINE, Value: inline}))
				var all []byte
				for i, size := range parts {
					all = append(all, bytes.Repeat([]byte{byte('a' + i)}, size)...)
				}
				group.Go(func() error {
					rest := all
					for _, size := range parts {
						if err := from.SendUrgent(p.ctx, rest[:size]); err != nil {
							return fmt.Errorf("send: %w", err)
						}
						rest = rest[size:]
					}
					return nil
				})
				group.Go(func() error {
					got, err := to.ReceiveFull(p.ctx, len(all))
					if err != nil || !bytes.Equal(got, all) {
						return fmt.Errorf("%d bytes of %d arrived, the same: %v, %w", len(got), len(all), bytes.Equal(got, all[:len(got)]), err)
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				p.Fatalf("inline %d, parts %v: %v", inline, parts, err)
			}
			p.must(near.SendUrgent(p.ctx, []byte("!"))) // and then at once the end
			p.must(near.CloseWrite())
			if got, err := io.ReadAll(far); string(got) != "!" || err != nil {
				p.Errorf("inline %d, before the end: %q, %v", inline, got, err)
			}
			p.must(far.Close())
			p.must(near.Close())
		}
	}
}
