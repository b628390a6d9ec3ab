// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// seen is step 6: what of all this the operator's program shows.
func (s *story) seen(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.culvert = filepath.Join(filepath.Dir(self), "culvert")
	var nodes []string
	for _, n := range s.lab.Nodes {
		address, err := n.ExposeAdmin(ctx)
		if err != nil {
			return err
		}
		nodes = append(nodes, address)
	}
	s.ztunnels = strings.Join(nodes, ",")
	edges, err := exec.CommandContext(ctx, s.culvert, "edges", "--ztunnel", s.ztunnels).CombinedOutput()
	if err != nil {
		return fmt.Errorf("culvert edges: %w\n%s", err, edges)
	}
	for _, want := range []string{"shop/web", "shop/till", "(outside)", "denied"} {
		if !strings.Contains(string(edges), want) {
			return fmt.Errorf("culvert edges does not show %q:\n%s", want, edges)
		}
	}
	s.out.proved("culvert edges shows who talked to whom, and who was refused", strings.TrimRight(string(edges), "\n"))
	return s.mapped(ctx)
}

// mapped starts culvert map, which runs until the demo ends.
func (s *story) mapped(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.culvert, "map", "--listen", "127.0.0.1:0", "--ztunnel", s.ztunnels)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.endMap = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended with ctx
		_ = cmd.Wait()                          // by the signal
	}
	line := bufio.NewScanner(said)
	line.Scan()
	address, found := strings.CutPrefix(line.Text(), "the map is at ")
	if !found {
		return fmt.Errorf("culvert map says %q: %w", line.Text(), errors.Join(line.Err(), errors.New("want an address")))
	}
	if err := eventually(ctx, func() error { return answers(ctx, address) }); err != nil {
		return fmt.Errorf("the map: %w", err)
	}
	s.address = address
	s.out.proved("culvert map shows it as a page, as it happens", address)
	return nil
}

// answers reports whether the page is served to whoever has its address.
func answers(ctx context.Context, address string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Jar: jar}).Do(r)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of %s", answer.Status, address)
	}
	return nil
}

// openMap opens the page where there is a desktop.
func (s *story) openMap() {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return
	}
	if opener, err := exec.LookPath("xdg-open"); err == nil {
		cmd := exec.Command(opener, s.address)
		if cmd.Start() == nil {
			go cmd.Wait() // the address stands on the terminal, too
		}
	}
}
