// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// What happens on a node, and what others need to find out what is wrong with it, by its
// real ztunnel.
func TestTapAndBugReportHearARealNode(t *testing.T) {
	t.Parallel()
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)

	type told struct {
		text string
		err  error
	}
	tapped := make(chan told, 1)
	go func() {
		text, err := s.culvert(s.one, "tap", "--ztunnel", "127.0.0.1:15000", "--from", s.namespace+"/client", "--event", "close", "--count", "1")
		tapped <- told{text, err}
	}()
	var heard told
	s.eventually("tap tells of a connection", func() bool { // it may begin to listen after the first
		_ = client.Ping(s.ctx, "tcp4", server.At("tcp4", 8080), "ping") // the tunnel may not be there yet
		select {
		case heard = <-tapped:
			return true
		default:
			return false
		}
	})
	if heard.err != nil || !strings.Contains(heard.text, s.namespace+"/client") || !strings.Contains(heard.text, s.namespace+"/server:8080") {
		t.Errorf("tap: %v\n%s", heard.err, heard.text)
	}

	to := filepath.Join(t.TempDir(), "report.tar.gz")
	if text, err := s.culvert(s.one, "bug-report", "--ztunnel", "127.0.0.1:15000", "--listen", "1s", "--to", to); err != nil && !strings.Contains(err.Error()+text, "are missing") {
		t.Fatalf("bug-report: %v\n%s", err, text)
	}
	files := filesOf(t, to)
	for _, want := range []string{"config_dump.json", "metrics.txt", "ready.txt", "log-level.txt", "INDEX.txt"} {
		if !slices.ContainsFunc(files, func(f string) bool { return filepath.Base(f) == want }) {
			t.Errorf("the report has no %s: %q", want, files)
		}
	}
}

// filesOf are the names of what an archive holds.
func filesOf(t *testing.T, name string) (files []string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewReader(plain)
	for {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, head.Name)
	}
}
