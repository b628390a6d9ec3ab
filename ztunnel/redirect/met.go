// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// met counts the SYNs which arrived in pods and met the socket of a connection
// that is open, so that no program saw them and nobody answered: of a client
// that uses the port of a leg to the app, or its own port again. The kernel
// counts them for each netns, legs or not: it is an upper bound.
type met struct {
	mu    sync.Mutex
	total uint64
	last  map[netns.Cookie]uint64
}

// count adds what came since the last call. A netns that cannot be asked is on
// its way out.
func (m *met) count(pods []*netns.NS) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := make(map[netns.Cookie]uint64, len(pods))
	for _, ns := range pods {
		var n uint64
		err := ns.Do(func() (err error) {
			n, err = synChallenges()
			return err
		})
		if err != nil {
			continue
		}
		now[ns.Cookie()] = n
		if before, ok := m.last[ns.Cookie()]; ok {
			m.total += n - before
		}
	}
	m.last = now
	return m.total
}

func (d *Datapath) steeredNetns() (found []*netns.NS) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pods {
		if p.inbound {
			found = append(found, p.NS)
		}
	}
	return found
}

// synChallenges reads TcpExt's TCPSYNChallenge of the thread's netns: names are
// in one line, values in the next.
func synChallenges() (uint64, error) {
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return 0, err
	}
	names, rest, _ := strings.Cut(string(text), "\n")
	values, _, _ := strings.Cut(rest, "\n")
	at := slices.Index(strings.Fields(names), "TCPSYNChallenge")
	fields := strings.Fields(values)
	if at < 0 || at >= len(fields) {
		return 0, fmt.Errorf("no TCPSYNChallenge in /proc/net/netstat")
	}
	return strconv.ParseUint(fields[at], 10, 64)
}
