// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Record is one line of a ztunnel's access log.
type Record struct {
	Message string
	Fields  map[string]any // as logged
}

// Get is a field as text, empty if it is not there.
func (r Record) Get(name string) string {
	switch v := r.Fields[name].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// AddrPort is a field as an address, invalid if it is none.
func (r Record) AddrPort(name string) netip.AddrPort {
	addr, _ := netip.ParseAddrPort(r.Get(name))
	return addr
}

func (r Record) String() string {
	text, _ := json.Marshal(r.Fields)
	return string(text)
}

// accessLog reads the access records that a ztunnel appends to its log.
type accessLog struct {
	mu      sync.Mutex // guards what follows
	offset  int64
	records []Record
}

// read takes what was logged since; an incomplete last line stays for later.
func (a *accessLog) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(a.offset, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	end := strings.LastIndexByte(string(text), '\n') + 1
	a.offset += int64(end)
	for line := range strings.Lines(string(text[:end])) {
		if r, ok := parseRecord(line); ok {
			a.records = append(a.records, r)
		}
	}
	return nil
}

func parseRecord(line string) (Record, bool) {
	var fields map[string]any
	if json.Unmarshal([]byte(line), &fields) != nil || fields["direction"] == nil {
		return Record{}, false
	}
	r := Record{Fields: fields}
	for _, key := range []string{"msg", "message"} {
		if text, ok := fields[key].(string); ok {
			r.Message = text
		}
	}
	return r, true
}

// Records are the access records that the node's ztunnel has logged so far.
func (n *Node) Records() ([]Record, error) {
	n.access.mu.Lock()
	defer n.access.mu.Unlock()
	if n.Ztunnel == nil {
		return nil, fmt.Errorf("%s has no ztunnel", n.Name)
	}
	err := n.access.read(n.Ztunnel.Log)
	return slices.Clone(n.access.records), err
}

// Access waits for an access record that matches, and returns the first one.
func (n *Node) Access(ctx context.Context, match func(Record) bool) (found Record, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("there is none"))
	defer cancel()
	err = until(ctx, func() (bool, error) {
		records, err := n.Records()
		i := slices.IndexFunc(records, match)
		if i >= 0 {
			found = records[i]
		}
		return i >= 0, err
	})
	if err != nil {
		records, _ := n.Records()
		last := records[max(len(records)-5, 0):]
		return Record{}, fmt.Errorf("await an access record of %s: %w; its last: %v", n.Name, err, last)
	}
	return found, nil
}
