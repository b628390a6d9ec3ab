// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// edgeKey is what tells one edge of a node from another.
type edgeKey struct {
	direction, service, reason string
	src, dst                   fleet.End
	port                       uint16
	secured                    bool
}

func keyOfEdge(e fleet.Edge) edgeKey {
	return edgeKey{e.Direction, e.Service, e.Reason, e.Source, e.Destination, e.Port, e.Secured}
}

// once reports whether the connections of an edge are counted here, and not where they
// left: one that is no pod where it comes from may have no ztunnel that counts it.
func once(e fleet.Edge) bool {
	return e.Direction != "inbound" || e.Source.Identity == "" || e.Source.Workload == ""
}

// between is what was counted from one sample to the next, a row each, by their names.
func (k *counting) between(before, after sample) []counts {
	rows := map[string]*counts{}
	row := func(e fleet.Edge) *counts {
		name := k.name(e)
		if name == "" || !matches(e.Source, k.from) || !matches(e.Destination, k.to) || k.ns != "" && !strings.HasPrefix(name+"/", k.ns+"/") {
			return nil
		}
		if rows[name] == nil {
			rows[name] = &counts{Name: name}
		}
		return rows[name]
	}
	last := map[string]fleet.Node{}
	for _, n := range before.nodes {
		last[n.Name] = n
	}
	for _, n := range after.nodes {
		was, known := last[n.Name]
		if n.Problem != "" || !known || was.Problem != "" {
			continue
		}
		for _, e := range grown(was, n) {
			if r := row(e); r != nil {
				r.add(e, k.clients)
			}
		}
		for sign, node := range map[int64]fleet.Node{-1: was, 1: n} {
			for _, e := range carriedBy(node) {
				if r := row(e); r != nil {
					r.carry(e, sign, k.clients)
				}
			}
		}
	}
	k.pods(rows, after.nodes)
	seconds := max(after.at.Sub(before.at).Seconds(), 0.001)
	for _, r := range rows {
		r.rates(seconds)
	}
	var all []counts
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		all = append(all, *rows[name])
	}
	return all
}

// name is that of the row in which a connection counts, or empty.
func (k *counting) name(e fleet.Edge) string {
	if e.Direction == "others" {
		return "(others)"
	}
	end := e.Destination
	if k.clients {
		end = e.Source
	}
	switch {
	case k.kind == "services":
		return e.Service
	case k.kind == "namespaces":
		return cmp.Or(end.Namespace, endName(end))
	}
	return endName(end)
}

// grown is by how much a node's edges grew; one that fell began anew, with its ztunnel.
func grown(before, after fleet.Node) (all []fleet.Edge) {
	last := map[edgeKey]fleet.Edge{}
	for _, e := range before.Dump.Edges {
		last[keyOfEdge(e)] = e
	}
	others := -1
	for _, e := range after.Dump.Edges {
		if !once(e) {
			continue
		}
		was := last[keyOfEdge(e)]
		delete(last, keyOfEdge(e))
		if e.Opened < was.Opened {
			was = fleet.Edge{}
		}
		if isOthers(e) == 1 {
			others = len(all)
		}
		all = append(all, less(e, was))
	}
	if others >= 0 { // rows that went are counted there now
		for _, e := range last {
			all[others] = less(all[others], e)
		}
	}
	return all
}

func less(e, was fleet.Edge) fleet.Edge {
	e.Opened -= min(e.Opened, was.Opened)
	e.BytesSent -= min(e.BytesSent, was.BytesSent)
	e.BytesRecv -= min(e.BytesRecv, was.BytesRecv)
	refused := map[string]uint64{}
	for word, n := range e.Refused {
		if n > was.Refused[word] {
			refused[word] = n - was.Refused[word]
		}
	}
	e.Refused = refused
	return e
}

// carriedBy are a node's open connections, as edges with what they have carried so far.
func carriedBy(n fleet.Node) (all []fleet.Edge) {
	at := map[netip.Addr]fleet.End{}
	for _, w := range n.Dump.Workloads {
		for _, a := range w.Addrs {
			at[a] = fleet.End{Namespace: w.Namespace, Workload: cmp.Or(w.Owner, w.Name)}
		}
	}
	end := func(address string) fleet.End {
		parsed, _ := netip.ParseAddrPort(address) // nobody is at what is none
		return at[parsed.Addr().Unmap()]
	}
	for _, p := range n.Dump.Pods {
		for _, conn := range slices.Concat(p.Connections.Outbound, p.Connections.Inbound) {
			e := fleet.Edge{
				Direction: conn.Direction, Source: end(conn.Src), Destination: end(cmp.Or(conn.Dst, conn.OriginalDst)), Service: conn.Service,
				BytesSent: conn.BytesSent, BytesRecv: conn.BytesRecv,
			}
			e.Source.Identity, e.Destination.Identity = conn.SrcIdentity, conn.DstIdentity
			if once(e) {
				all = append(all, e)
			}
		}
	}
	return all
}

func (r *counts) add(e fleet.Edge, clients bool) {
	r.Opened += e.Opened
	r.Open += e.Open
	if e.Secured {
		r.Secured += e.Opened
	}
	for word, n := range e.Refused {
		if r.Reasons == nil {
			r.Reasons = map[string]uint64{}
		}
		r.Reasons[word] += n
		r.Refused += n
	}
	r.carry(e, 1, clients)
}

// carry adds or takes bytes. An edge has them as the pod of its node sees them.
func (r *counts) carry(e fleet.Edge, sign int64, clients bool) {
	sent, received := int64(e.BytesSent), int64(e.BytesRecv)
	if clients == (e.Direction == "inbound") {
		sent, received = received, sent // the row is that of the other end
	}
	r.written += sign * sent
	r.read += sign * received
}

func (r *counts) rates(seconds float64) {
	r.PerSec = float64(r.Opened) / seconds
	r.ReadSec, r.WriteSec = float64(max(r.read, 0))/seconds, float64(max(r.written, 0))/seconds
	if r.Opened > 0 {
		share := 1 - float64(min(r.Refused, r.Opened))/float64(r.Opened)
		r.Success = &share
	}
}

// pods counts those of each row, as the first node knows them that answered.
func (k *counting) pods(rows map[string]*counts, nodes []fleet.Node) {
	i := slices.IndexFunc(nodes, func(n fleet.Node) bool { return n.Problem == "" })
	if i < 0 || k.kind == "services" {
		return
	}
	for _, w := range nodes[i].Dump.Workloads {
		name := w.Namespace
		if k.kind == "workloads" {
			name += "/" + cmp.Or(w.Owner, w.Name)
		}
		if r := rows[name]; r != nil && !w.Terminated {
			r.Pods++
			if w.Meshed {
				r.Meshed++
			}
		}
	}
}

// countTable has the words of linkerd viz stat where they fit.
func countTable(w io.Writer, rows []counts, wide bool) error {
	head := "NAME|MESHED|OPENED|REFUSED|SUCCESS|CONN/S|TCP_CONN|READ/S|WRITE/S"
	if wide {
		head += "|SECURED|REFUSED BY"
	}
	var lines [][]string
	for _, r := range rows {
		meshed := ""
		if r.Pods > 0 {
			meshed = fmt.Sprintf("%d/%d", r.Meshed, r.Pods)
		}
		line := []string{
			r.Name, meshed, count(int(r.Opened)), count(int(r.Refused)), percent(r.Opened-min(r.Refused, r.Opened), r.Opened),
			fmt.Sprintf("%.1f", r.PerSec), count(int(r.Open)), size(r.ReadSec), size(r.WriteSec),
		}
		if wide {
			line = append(line, percent(r.Secured, r.Opened), reasons(r.Reasons))
		}
		lines = append(lines, line)
	}
	return table(w, head, lines)
}

// percent is a share for people; of nothing there is none.
func percent(part, whole uint64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f%%", 100*float64(part)/float64(whole))
}

// size is a number of bytes for people.
func size(bytes float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		switch {
		case bytes >= 1000:
			bytes /= 1000
			continue
		case unit == "B" || bytes >= 100:
			return fmt.Sprintf("%.0f%s", bytes, unit)
		}
		return fmt.Sprintf("%.1f%s", bytes, unit)
	}
	return fmt.Sprintf("%.1fTB", bytes)
}

// reasons are words with how often each was said, in their order.
func reasons(by map[string]uint64) string {
	var all []string
	for _, word := range slices.Sorted(maps.Keys(by)) {
		all = append(all, fmt.Sprintf("%s %d", word, by[word]))
	}
	return strings.Join(all, ", ")
}
