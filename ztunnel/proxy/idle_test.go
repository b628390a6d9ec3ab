// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"log/slog"
	"net"
	"runtime"
	"testing"
)

// A connection that has said something and then waits holds no buffer, and a
// goroutine with a small stack. Bounded is what both ends and the apps of this
// test need together, a third of it theirs: 7,400 B of heap and 10 KB of stacks.
func TestIdleConnectionsAreSmall(t *testing.T) {
	port := app(t, dbAddr, func(conn *net.TCPConn) {
		for buf := make([]byte, 5); ; {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			conn.Write(buf[:n])
		}
	})
	s := tell(t, port, func(s *story) {
		s.web.Log, s.db.Log = slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
	})
	talk := func() {
		s.talk()
		<-s.db.dialled
	}
	const warm, more = 50, 400
	for range warm {
		talk()
	}
	before := inUse()
	for range more {
		talk()
	}
	var heap, stacks int64
	defer func() { t.Logf("%d B of heap and %d B of stacks for each", heap, stacks) }()
	eventually(t, "an idle connection takes little at both ends", func() bool {
		heap, stacks = inUse().since(before, more)                 // of the last ones, some may yet have a buffer
		return testing.Short() || heap <= 8300 && stacks <= 14<<10 // the race detector needs memory of its own
	})
}

type memory struct{ heap, stacks uint64 }

// inUse is what is left when garbage is collected and stacks have shrunk, which
// they do by half each time.
func inUse() memory {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return memory{m.HeapAlloc, m.StackInuse}
}

func (m memory) since(before memory, n int64) (heap, stacks int64) {
	return int64(m.heap-before.heap) / n, int64(m.stacks-before.stacks) / n
}
