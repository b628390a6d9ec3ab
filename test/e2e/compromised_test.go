// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/test/lab"
)

// C.2: what it costs to replace a root whose key is in other hands, where a node is cut off from
// the CA and nobody waits for it. It loses its connections, and gets new ones once it hears the
// CA; between nodes that do, no connection fails.
func TestACompromisedRootIsReplacedAtTheCostOfWhoIsCutOff(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{TTL: 25 * time.Second, Nodes: 3}, "mesh")
	dir := filepath.Dir(s.Identity.Root)
	load := s.rekeyLoad(rekeyScale{identities: 6, streams: 30, rate: 45})
	whole, hurt := load.pairs[0], load.pairs[1:] // from node to node, the last of which is cut off
	mend, err := s.two.CutFromCA(s.Identity)
	s.must(err)
	s.Cleanup(func() { mend() })
	began := time.Now()
	if text, err := s.culvert(s.one, "ca", "rotate-root", "--ca-dir", dir, "--compromised", "--skip-after", "3s"); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	s.eventually("the former root is dropped without the node that is cut off", func() bool { return s.planOf(dir).State == rekey.Drop })
	dropped := time.Since(began)
	s.eventually("all connections of the node that is cut off have ended", func() bool { return load.alive(hurt...) == 0 })
	ended := time.Since(began)
	for _, p := range hurt {
		if err := p.from.Ping(s.ctx, "tcp4", p.to.At("tcp4", 8080), "while it is cut off"); err == nil {
			t.Errorf("%s reaches %s by the former root", p.from.Name, p.to.Name)
		}
	}

	// Its connection to the CA may be dead by now, and the CA shows a certificate of the next root.
	s.must(s.two.TakeRoots(s.Identity))
	s.must(mend())
	mended := time.Now()
	for _, p := range hurt {
		s.eventually("the node that is back is reached and reaches others", func() bool {
			return p.from.Ping(s.ctx, "tcp4", p.to.At("tcp4", 8080), "back") == nil
		})
	}
	back := time.Since(mended)
	s.eventually("the re-key has ended", func() bool { return s.planOf(dir).State == rekey.Stable })
	load.stop()
	load.dials.Wait()
	t.Logf("the root was dropped after %v; the node that was cut off lost its last connection after %v, and had others %v after it was back; %d new connections to or from it failed, of %d in all",
		dropped.Round(time.Millisecond), ended.Round(time.Millisecond), back.Round(time.Millisecond), hurt[0].failed.Load()+hurt[1].failed.Load(), load.opened.Load()+load.failed.Load())
	if alive, failed := load.alive(whole), whole.failed.Load(); alive < whole.held.OK || failed > 0 {
		t.Errorf("between nodes that hear the CA %d of %d connections live on, and %d new ones failed", alive, whole.held.OK, failed)
	}
}

// alive is how many of the streams that pairs hold carry bytes.
func (l *load) alive(pairs ...*pair) (n int) {
	l.Helper()
	for _, p := range pairs {
		still, err := p.client.ManyCheck(l.ctx, p.held.ID)
		l.must(err)
		n += still.OK
	}
	return n
}
