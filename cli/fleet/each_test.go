// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// many are targets of which the first ones take a connection and say nothing.
type many struct {
	silent, all int
	underWay    atomic.Int32
}

func (m *many) Ztunnels(context.Context) (targets []Target, err error) {
	for i := range m.all {
		targets = append(targets, Target{Name: fmt.Sprintf("node%d", i), Ready: true, dial: func(context.Context, int) (net.Conn, error) {
			near, far := net.Pipe()
			m.underWay.Add(1)
			go func() {
				defer far.Close()
				defer m.underWay.Add(-1)
				if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
					return
				}
				if i < m.silent {
					_, _ = io.Copy(io.Discard, far) // until whoever asks gives up
					return
				}
				fmt.Fprintf(far, "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", time.Now().UTC().Format(http.TimeFormat))
			}()
			return near, nil
		}})
	}
	return targets, nil
}

func (m *many) CAs(context.Context) ([]Target, error) { return nil, nil }

// Nodes are asked side by side, at most so many at a time: a silent one costs its deadline
// once, and so do as many as are asked at a time.
func TestSilentNodesCostOneDeadlineTogether(t *testing.T) {
	for silent, deadlines := range map[int]time.Duration{0: 0, 1: 1, atATime: 1, 2 * atATime: 2} {
		synctest.Test(t, func(t *testing.T) {
			m := &many{silent: silent, all: 200}
			began := time.Now()
			halfway := make(chan int, 1)
			go func() {
				time.Sleep(askFor / 2)
				halfway <- int(m.underWay.Load())
			}()
			nodes, err := Nodes(t.Context(), m)
			took := time.Since(began)
			failed := 0
			for _, n := range nodes {
				if n.Problem != "" {
					failed++
				}
			}
			if err != nil || len(nodes) != m.all || failed != silent {
				t.Errorf("%d silent: %d of %d did not answer, %v", silent, failed, len(nodes), err)
			}
			if took != deadlines*askFor {
				t.Errorf("%d silent: it took %v, want %v", silent, took, deadlines*askFor)
			}
			if asked := <-halfway; asked != min(silent, atATime) {
				t.Errorf("%d silent: %d were waited for at a time, want %d at most", silent, asked, atATime)
			}
		})
	}
}
