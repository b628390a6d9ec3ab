// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// An end that stops reading after it read fast leaves little in the kernel, copied or
// spliced: what else is for it waits in its peer.
func TestKernelHoldsLittleForAnEndThatReadsNoMore(t *testing.T) {
	r := startRelay(t)
	r.stall()
	const most = socket.UnsentOfApp + 64<<10
	before, held := uint64(0), 0
	defer func() { t.Logf("the kernel holds %d bytes that it has not sent", held) }()
	eventually(t, "nothing gets on, and the kernel holds little", func() bool {
		before = r.bytes.sent.Load()
		time.Sleep(100 * time.Millisecond)
		held = unsent(r.legs[1])
		return held > 0 && held <= most && r.bytes.sent.Load() == before
	})
}

// stall has the server read no more of what the client goes on to send fast.
func (r *relayed) stall() {
	r.t.Helper()
	go r.client.Write(make([]byte, 64<<20))
	if _, err := io.CopyN(io.Discard, r.server, 16<<20); err != nil {
		r.t.Fatal(err)
	}
}

func TestRelaysThatAreStalledInBulkHoldNoMoreThanThereIsForAll(t *testing.T) {
	b := NewBudget()
	b.room.Resize(10 << 20)
	var relays []*relayed
	for range 8 {
		r := startRelayOf(t, b.Share("shop/web"))
		r.stall()
		relays = append(relays, r)
	}
	eventually(t, "room is lent", func() bool { return b.room.Used() >= 8<<20 })
	held := 0
	for _, r := range relays {
		held += unsent(r.legs[1])
	}
	if most := 10<<20 + len(relays)*(socket.UnsentOfApp+64<<10); held > most {
		t.Errorf("the kernel holds %d bytes that it has not sent, want %d at most", held, most)
	}
	for _, r := range relays {
		r.cancel(net.ErrClosed)
		r.end()
	}
	if used := b.room.Used(); used != 0 {
		t.Errorf("%d bytes of room did not come back", used)
	}
}

func TestRoomIsLentForBulkOnly(t *testing.T) {
	b := NewBudget()
	r := startRelayOf(t, b.Share("shop/web"))
	r.stall()
	eventually(t, "room is lent", func() bool { return b.room.Used() > 0 })
	if _, err := io.CopyN(io.Discard, r.server, 48<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first may still be part of the bulk
		if _, err := r.client.Write([]byte("little")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, r.server, 6); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the room comes back", func() bool { return b.room.Used() == 0 })
}
