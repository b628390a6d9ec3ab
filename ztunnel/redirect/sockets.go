// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// holdsStandIns reports whether the thread's netns has a socket that is
// connected to a stand-in and can send.
func (d *Datapath) holdsStandIns() (bool, error) {
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(text)) {
			remote, state, ok := socketOf(line)
			if ok && canSend(state) && slices.ContainsFunc(d.standIns, func(p netip.Prefix) bool { return p.Contains(remote) }) {
				return true, nil
			}
		}
	}
	return false, nil
}

// States of <net/tcp_states.h>, as /proc writes them.
const (
	stateTimeWait = "06"
	stateClose    = "07"
	stateListen   = "0A"
)

func canSend(state string) bool {
	return state != stateTimeWait && state != stateClose && state != stateListen
}

// socketOf reads a line of /proc/net/tcp: words of addresses are in the order of
// the machine.
func socketOf(line string) (remote netip.Addr, state string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return netip.Addr{}, "", false
	}
	digits, _, _ := strings.Cut(fields[2], ":")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, "", false // the head of the table
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	remote, ok = netip.AddrFromSlice(b)
	return remote.Unmap(), fields[3], ok
}
