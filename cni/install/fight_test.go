// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAFightIsSaidAndGoesOnSlowly(t *testing.T) {
	n := newNode(t)
	in := n.installer()
	now := time.Now()
	n.writes("10-flannel.conflist", flannel)
	in.look(now)

	var waits []time.Duration
	for range 12 {
		n.writes("10-flannel.conflist", flannel)
		wait := in.look(now)
		waits = append(waits, wait)
		if wait > 0 {
			if got := len(n.chain()); got != 2 {
				t.Fatalf("put back before its time: %q", n.chain())
			}
			if again := in.look(now.Add(wait - time.Millisecond)); again != time.Millisecond {
				t.Fatalf("another look counts as another loss: %v", again)
			}
		}
		now = now.Add(wait)
		in.look(now)
		n.wantChain("after its time", "flannel", "portmap", "culvert-cni")
	}
	want := []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(waits, want) {
		t.Errorf("waits\n%v, want\n%v", waits, want)
	}
	if n := strings.Count(n.log.String(), "level=ERROR msg=\"another program takes the plugin's entry out again and again"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if !in.status.fight || in.status.repairs[repairedEntry] != 12 {
		t.Errorf("fight %v, %d repairs", in.status.fight, in.status.repairs[repairedEntry])
	}

	in.look(now.Add(peace))
	if in.status.fight || !strings.Contains(n.log.String(), "nobody takes the plugin's entry out any more") {
		t.Errorf("still a fight after %v of peace: %s", peace, n.log)
	}
	n.writes("10-flannel.conflist", flannel)
	if wait := in.look(now.Add(peace)); wait != 0 {
		t.Errorf("the next loss waits %v", wait)
	}
}

// Cilium's agent, as it is by default, restores its own config and renames those
// of all others.
func TestCiliumIsToldFromOthersAndWhatToSet(t *testing.T) {
	n := newNode(t)
	in := n.installer()
	n.writes("05-cilium.conflist", cilium)
	in.look(time.Now())
	n.writes("05-cilium.conflist", cilium)
	in.look(time.Now())
	if !strings.Contains(n.log.String(), "cni.exclusive=false") {
		t.Errorf("its own config: %s", n.log)
	}

	n = newNode(t)
	in = n.installer()
	n.writes("10-ovn.conf", `{"type":"ovn","name":"n","cniVersion":"1.0.0"}`)
	in.look(time.Now())
	ours := filepath.Join(n.conf, "10-ovn-culvert.conflist")
	if err := os.Rename(ours, ours+".cilium_bak"); err != nil {
		t.Fatal(err)
	}
	in.look(time.Now())
	if !strings.Contains(n.log.String(), "cni.exclusive=false") {
		t.Errorf("configs of others: %s", n.log)
	}

	n = newNode(t)
	in = n.installer()
	for range 2 {
		n.writes("10-flannel.conflist", flannel)
		in.look(time.Now())
	}
	if strings.Contains(n.log.String(), "cni.exclusive") {
		t.Errorf("no Cilium there: %s", n.log)
	}
}
