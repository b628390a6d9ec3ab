// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever takes an event may take long, as a terminal that is stopped does: the target has
// said something all the time.
func TestThatWeTakeOurTimeIsNoSilenceOfTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := http.ReadRequest(bufio.NewReader(far)); err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"event\":\"open\"}\n\n")
			_, _ = io.WriteString(far, "{\"event\":\"close\"}\n")
			_, _ = io.Copy(io.Discard, far) // until we give up
		}()
		target := Target{Name: "node1", dial: func(context.Context, int) (net.Conn, error) { return near, nil }}
		var kinds []string
		err := target.events(t.Context(), nil, func() {}, func(e Event) {
			kinds = append(kinds, e.Kind)
			if e.Kind == "open" {
				time.Sleep(2 * quiet)
			}
		})
		if len(kinds) != 2 || kinds[1] != "close" {
			t.Errorf("heard %v", kinds)
		}
		if err == nil || err.Error() != "it has said nothing for 40s" {
			t.Errorf("then it was silent: %v", err)
		}
	})
}
