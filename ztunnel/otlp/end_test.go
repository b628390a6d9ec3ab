// SPDX-License-Identifier: Apache-2.0

package otlp

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

// When the exporter ends, a receiver that hangs costs it two seconds, and what is lost is
// counted.
func TestTheEndDoesNotWaitForAReceiverThatHangs(t *testing.T) {
	r := newReceiver(t, "tcp", "127.0.0.1:0", false)
	asked := make(chan struct{}, 10)
	r.says(func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		asked <- struct{}{}
		<-q.Context().Done()
	})
	var told strings.Builder // by Run alone
	e, log, stop := exporter(t, Config{Endpoint: "http://" + r.Listener.Addr().String(), Log: slog.New(slog.NewTextHandler(&told, nil))})
	log.Info("under way")
	<-asked
	for range 2 * batchMost {
		log.Info("queued")
	}
	stop()
	if got := e.Stats(); got[Expired] != 1+2*batchMost {
		t.Error(got)
	}
	if said := told.String(); !strings.Contains(said, fmt.Sprintf("records=%d", 1+2*batchMost)) {
		t.Errorf("the log says %q, and nobody asks for metrics any more", said)
	}
}
