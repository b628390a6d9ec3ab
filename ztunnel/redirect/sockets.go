// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// holdsStandIns reports whether the thread's netns has a socket that is
// connected to a stand-in and can send. The kernel looks for one, among as many as
// the pod has; where it cannot (CONFIG_INET_DIAG), we read them all.
func (d *Datapath) holdsStandIns() (bool, error) {
	a, err := netns.NewAsker(unix.NETLINK_SOCK_DIAG, time.Now().Add(lookTime))
	if err != nil {
		return d.readStandIns()
	}
	defer a.Close()
	for _, p := range d.standIns {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if p.Addr().Is6() && family == unix.AF_INET {
				continue // an IPv6 socket may have an IPv4 peer, but not the reverse
			}
			err := a.Dump(sockDiagByFamily, connectedTo(family, p), func([]byte) error { return errFound })
			switch {
			case errors.Is(err, errFound):
				return true, nil
			case errors.Is(err, unix.ENOENT):
				return d.readStandIns()
			case err != nil:
				return false, fmt.Errorf("look for sockets: %w", err)
			}
		}
	}
	return false, nil
}

const sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY

// errFound ends a dump: one socket is enough.
var errFound = errors.New("found")

// connectedTo asks for TCP sockets that can send, to an address of p: a struct
// inet_diag_req_v2 and an attribute with a program of one condition.
func connectedTo(family uint8, p netip.Prefix) []byte {
	const request, bytecode, toCond = 56, 1, 8 // INET_DIAG_REQ_BYTECODE, INET_DIAG_BC_D_COND
	states := uint32(1<<(maxState+1)-1) &^ (1 | 1<<stateTimeWait | 1<<stateClose | 1<<stateListen)
	addr := p.Addr().AsSlice()
	op := make([]byte, 12, 12+len(addr)) // struct inet_diag_bc_op, inet_diag_hostcond
	op = append(op, addr...)
	of := uint8(unix.AF_INET)
	if p.Addr().Is6() {
		of = unix.AF_INET6
	}
	op[0], op[1], op[4], op[5] = toCond, byte(len(op)), of, byte(p.Bits())
	order := binary.NativeEndian
	order.PutUint16(op[2:], uint16(len(op)+4))      // if not: beyond the end, which is no match
	order.PutUint32(op[8:], uint32(math.MaxUint32)) // -1: any port

	b := make([]byte, request, request+unix.SizeofRtAttr+len(op))
	b[0], b[1] = family, unix.IPPROTO_TCP
	order.PutUint32(b[4:], states)
	b = order.AppendUint16(b, uint16(unix.SizeofRtAttr+len(op)))
	b = order.AppendUint16(b, bytecode)
	return append(b, op...)
}

// readStandIns is holdsStandIns by /proc.
func (d *Datapath) readStandIns() (bool, error) {
	for _, name := range []string{"tcp", "tcp6"} {
		table, err := os.Open("/proc/thread-self/net/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return false, err
		}
		found, err := d.findStandIn(table)
		table.Close()
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

func (d *Datapath) findStandIn(table io.Reader) (bool, error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		remote, state, ok := socketOf(lines.Text())
		if ok && canSend(state) && slices.ContainsFunc(d.standIns, func(p netip.Prefix) bool { return p.Contains(remote) }) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// States of <net/tcp_states.h>.
const (
	stateTimeWait = 6
	stateClose    = 7
	stateListen   = 10
	maxState      = 12 // TCP_NEW_SYN_RECV
)

func canSend(state uint64) bool {
	return state != stateTimeWait && state != stateClose && state != stateListen
}

// socketOf reads a line of /proc/net/tcp: words of addresses are in the order of
// the machine.
func socketOf(line string) (remote netip.Addr, state uint64, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return netip.Addr{}, 0, false
	}
	digits, _, _ := strings.Cut(fields[2], ":")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, 0, false // the head of the table
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	state, err = strconv.ParseUint(fields[3], 16, 8)
	remote, ok = netip.AddrFromSlice(b)
	return remote.Unmap(), state, ok && err == nil
}
