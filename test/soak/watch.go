// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
)

// identity is what was seen of a node's certificates for one identity.
type identity struct {
	serials map[string]bool
	bad     map[string]int // looks at which it was not valid, by state
}

// watch looks at certificates and open connections each second until end.
func (w *world) watch(ctx, end context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, n := range w.lab.Nodes {
			if err := w.look(ctx, n); err != nil {
				return err
			}
		}
		for i, conn := range w.open {
			if err := conn.Ping(ctx, "still here"); err != nil {
				return fmt.Errorf("the connection of %v that was open from the beginning: %w", w.pods[i], err)
			}
		}
		select {
		case <-end.Done():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// look notes the certificates that a node has.
func (w *world) look(ctx context.Context, n *lab.Node) error {
	dump, err := n.Dump(ctx)
	if err != nil {
		return err
	}
	var held []struct {
		Identity, State string
		CertChain       []struct{ SerialNumber string }
	}
	if err := json.Unmarshal(dump.Text["certificates"], &held); err != nil {
		return fmt.Errorf("certificates of %s: %w", n.Name, err)
	}
	for _, h := range held {
		name := n.Name + " " + h.Identity
		id := w.seen[name]
		if id == nil {
			id = &identity{serials: map[string]bool{}, bad: map[string]int{}}
			w.seen[name] = id
		}
		if h.State != "Available" {
			id.bad[h.State]++
			continue
		}
		id.serials[h.CertChain[0].SerialNumber] = true
		if len(h.CertChain) > 1 {
			w.signers[h.CertChain[1].SerialNumber] = true
		}
	}
	return nil
}

// refused is what the nodes themselves counted as refused.
func (w *world) refused(ctx context.Context) error {
	var problems []error
	for _, n := range w.lab.Nodes {
		_, text, err := n.HTTPGet(ctx, "http://127.0.0.1:15020/metrics")
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "culvert_connections_refused_total{") && !strings.HasSuffix(line, " 0") {
				problems = append(problems, fmt.Errorf("%s: %s", n.Name, line))
			}
		}
	}
	return errors.Join(problems...)
}
