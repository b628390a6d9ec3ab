// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// unread starts the node's ztunnel anew with a pipe as its log, and returns the
// end that nobody reads yet.
func (s *story) unread(n *lab.Node, args ...string) *os.File {
	s.Helper()
	r, w, err := os.Pipe()
	s.must(err)
	s.Cleanup(func() { r.Close() })
	_, err = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
	s.must(err)
	s.must(n.Ztunnel.Stop(s.ctx))
	s.must(n.StartZtunnel(s.ctx, lab.ZtunnelOptions{Stderr: w, Args: args}))
	s.must(w.Close())
	return r
}

// fillLog makes connections until records are dropped.
func (s *story) fillLog(n *lab.Node, client, server *lab.Pod) {
	s.Helper()
	a, err := client.Agent()
	s.must(err)
	for range 40 {
		crowd, err := a.Many(s.ctx, agent.Many{Network: "tcp4", To: server.At("tcp4", 8080), Count: 400})
		s.must(err)
		s.must(a.ManyClose(s.ctx, crowd.ID))
		if crowd.OK != 400 {
			s.Fatalf("with a log that nobody reads, %v of 400 connections fail", crowd.Failed)
		}
		if s.counted(n, "culvert_log_records_dropped_total") > 0 {
			return
		}
	}
	s.Fatal("16,000 connections, and no record is dropped")
}

func TestALogThatNobodyReadsStopsNothing(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	r := s.unread(s.one, "-log-level", "debug")
	client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.must(client.AwaitEnrolled(s.ctx))
	s.must(server.AwaitEnrolled(s.ctx))
	s.fillLog(s.one, client, server)

	// ADD and DEL, the dump, connections, and one that is refused and logged as
	// an error.
	late := s.pod(s.one, "late", nil)
	s.reached(late.Place, "tcp6", server, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.refused(s.Outside.Place, "tcp4", server, 8080)
	s.must(late.Delete(s.ctx))
	s.eventually("the dump shows the pods that are left", func() bool {
		status, dump, err := s.one.HTTPGet(s.ctx, "http://127.0.0.1:15000/config_dump")
		s.must(err)
		return status == http.StatusOK && strings.Contains(dump, server.UID) && !strings.Contains(dump, late.UID)
	})
	for _, level := range []string{"debug", "info", "error"} {
		if s.counted(s.one, "culvert_log_records_dropped_total", "level", level) == 0 {
			t.Errorf("no record is dropped at %s", level)
		}
	}

	// Somebody reads again: the gap is told, and what comes next is there.
	lines := make(chan map[string]any, 100_000)
	go func() {
		defer close(lines)
		for text := bufio.NewScanner(r); text.Scan(); {
			var fields map[string]any
			if json.Unmarshal(text.Bytes(), &fields) == nil {
				lines <- fields
			}
		}
	}()
	gap := s.line(lines, func(fields map[string]any) bool { return fields["dropped"] != nil })
	if n, _ := gap["dropped"].(float64); n < 1 || gap["level"] != "warn" {
		t.Errorf("the gap is told by %v", gap)
	}
	s.reached(client.Place, "tcp6", server, 8080)
	s.line(lines, func(fields map[string]any) bool {
		addr, _ := fields["dst.addr"].(string)
		return fields["result"] == "ok" && addr == server.At("tcp6", 8080).String()
	})
}

// line awaits a line of a log.
func (s *story) line(lines <-chan map[string]any, fits func(map[string]any) bool) map[string]any {
	s.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case fields, ok := <-lines:
			if !ok {
				s.Fatal("the log has ended")
			}
			if fits(fields) {
				return fields
			}
		case <-limit:
			s.Fatal("the line does not come")
		}
	}
}

func TestZtunnelEndsThoughNobodyReadsItsLog(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	s.unread(s.one, "-log-level", "debug", "-drain", "1ms")
	client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.must(client.AwaitEnrolled(s.ctx))
	s.must(server.AwaitEnrolled(s.ctx))
	s.fillLog(s.one, client, server)
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	s.must(s.one.Ztunnel.Stop(ctx))
}

func TestZtunnelOutlivesTheReaderOfItsLog(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	r := s.unread(s.one)
	client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.must(client.AwaitEnrolled(s.ctx))
	s.must(r.Close()) // EPIPE, and SIGPIPE by default
	s.eventually("records are lost and counted", func() bool {
		s.reached(client.Place, "tcp4", server, 8080)
		return s.counted(s.one, "culvert_log_records_dropped_total") > 0
	})
	s.reached(client.Place, "tcp4", server, 8080)
}
