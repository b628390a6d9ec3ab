// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// head begins a table of events.
func (t *tapping) head() error {
	head := []string{"TIME", "NODE", "EVENT", "DIR", "SRC", "DST", "SECURED"}
	switch t.out.value {
	case "json":
		return nil
	case "wide":
		head = append(head, "SRC ADDRESS", "DST ADDRESS", "SERVICE", "PATH", "SRC IDENTITY", "DST IDENTITY")
	}
	t.lines.widths = []int{12, 5, 7, 3, 10, 14, 7} // as most are: a table that grows is hard to read
	return t.lines.row(append(head, "DETAIL")...)
}

func (t *tapping) event(node string, e fleet.Event) error {
	if t.out.value == "json" {
		return printOf(t.Stdout, node, e)
	}
	src, dst, secured := endOf(e.Source, false), endOf(e.Destination, true), ""
	if e.Direction != "" {
		if secured = cmp.Or(e.Plaintext, "no"); e.Secured {
			secured = "yes"
		}
	}
	row := []string{e.Time.UTC().Format("15:04:05.000"), node, e.Kind, strings.TrimSuffix(e.Direction, "bound"), cmp.Or(e.Pod, src), dst, secured}
	if t.out.value == "wide" {
		row = append(row, addressOf(e.Source), addressOf(e.Destination), e.Service, e.Path, cmp.Or(e.Identity, e.Source.Identity), e.Destination.Identity)
	}
	return t.lines.row(append(row, detail(e))...)
}

// endOf names one end as edges does, with the port if it is the server's.
func endOf(e fleet.EventEnd, server bool) string {
	if e == (fleet.EventEnd{}) {
		return ""
	}
	name := e.Namespace + "/" + cmp.Or(e.Workload, e.Pod)
	if name == "/" {
		name = cmp.Or(e.Identity, "(outside)")
		if e.Identity == "" && e.Address.IsValid() {
			name = e.Address.Addr().String()
		}
		if e.Identity == "" && server && e.Address.IsValid() {
			return e.Address.String() // as [::1]:80
		}
	}
	if server && e.Address.IsValid() {
		name += ":" + strconv.Itoa(int(e.Address.Port()))
	}
	return strings.TrimPrefix(name, "/")
}

func addressOf(e fleet.EventEnd) string {
	if !e.Address.IsValid() {
		return ""
	}
	return e.Address.String()
}

// detail is what else there is to say, as "denied, by AuthorizationPolicy shop/db".
func detail(e fleet.Event) string {
	var parts []string
	add := func(is bool, text string) {
		if is {
			parts = append(parts, text)
		}
	}
	add(e.Kind == "dropped", fmt.Sprintf("%d events were lost: they came faster than they were read", e.Count))
	add(e.What != "", e.What)
	add(e.Result != "", e.Result)
	add(e.Policy != "", "by "+e.Policy)
	add(e.Kind == "close", fmt.Sprintf("sent %d, received %d, %s", e.BytesSent, e.BytesRecv, e.Duration))
	add(e.Error != "", e.Error)
	return strings.Join(parts, ", ")
}

// printLine writes one object in one line.
func printLine(w io.Writer, v any) error { return encode(w, v, "") }

// printOf writes an event as its ztunnel tells it, also what is not known here, with the
// node before it, and without control characters.
func printOf(w io.Writer, node string, e fleet.Event) error {
	name, err := json.Marshal(node)
	if err != nil {
		return err
	}
	rest := bytes.TrimPrefix(e.Line, []byte("{"))
	line := slices.Concat([]byte(`{"node":`), name, []byte(","), rest, []byte("\n"))
	if bytes.Equal(bytes.TrimSpace(rest), []byte("}")) {
		line = slices.Concat([]byte(`{"node":`), name, []byte("}\n"))
	}
	_, err = w.Write(escaped(line))
	return err
}
