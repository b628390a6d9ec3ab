// SPDX-License-Identifier: Apache-2.0

// Package records reads ztunnel's access records and asks other policies about the
// connections that they tell of.
//
// What cannot be judged is counted by why, so that no number hides another. Memory is
// bounded, whatever the records are.
package records

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// record is what an access record tells of a connection that arrived at a pod.
type record struct {
	ended time.Time
	word  string // how

	plaintext bool
	id        spiffeid.ID // zero: none was proven
	src       netip.Addr
	from      string // the source's pod, for people
	source    name   // the same

	pod    name // the destination
	target netip.AddrPort
}

type name struct{ namespace, name string }

// line is an access record as it is written.
type line struct {
	Time      time.Time `json:"time"`
	Direction string    `json:"direction"`
	Path      string    `json:"path"`
	Result    string    `json:"result"`
	Omitted   uint64    `json:"omitted"`

	SrcAddr      string `json:"src.addr"`
	SrcID        string `json:"src.identity"`
	SrcNamespace string `json:"src.namespace"`
	SrcWorkload  string `json:"src.workload"`

	DstAddr      string `json:"dst.addr"`
	HBONEAddr    string `json:"dst.hbone_addr"`
	DstNamespace string `json:"dst.namespace"`
	DstWorkload  string `json:"dst.workload"`
}

// Values of an access record.
const (
	inbound     = "inbound"
	passthrough = "passthrough" // plaintext
	denied      = "denied"
	changed     = "policy_changed"
)

// Why a line of a log, or a record, is not judged.
const (
	notUnderstood = "lines that are no JSON object, or hold a field that means nothing"
	tooLong       = "lines longer than 64 KiB"
	unrecorded    = "connections that failed like others and have no record"
	unnamed       = "records that lack the pod, its port or who connected"
	early         = "records of connections that ended before policies were asked: no identity was proven"
	gone          = "records of pods that are not there any more"
	outside       = "records of pods that are not in the mesh"
	stranger      = "records whose source is a pod that is not there any more, where NetworkPolicies ask which it is"
)

const (
	maxLine = 64 << 10 // bytes; an access record has some 700
	maxName = 63 + 253 // Kubernetes' limits
)

// read gives each record of an arriving connection to take. Other lines of a log are
// passed over; skip counts what is not understood.
func read(in io.Reader, take func(*record), skip func(why string, n uint64)) error {
	lines := bufio.NewReaderSize(in, maxLine)
	for {
		text, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			skip(tooLong, 1)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = lines.ReadSlice('\n')
			}
			text = nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("read records: %v", err)
		}
		if len(bytes.TrimSpace(text)) > 0 {
			parse(text, take, skip)
		}
		if err == io.EOF {
			return nil
		}
	}
}

func parse(text []byte, take func(*record), skip func(why string, n uint64)) {
	var l line
	if json.Unmarshal(text, &l) != nil {
		skip(notUnderstood, 1)
		return
	}
	if l.Direction != inbound || l.Result == "" {
		return // not about a connection that arrived and ended
	}
	if l.Omitted > 0 {
		skip(unrecorded, l.Omitted)
		if l.DstAddr == "" {
			return // it tells of nothing else
		}
	}
	if l.DstAddr == "" || l.SrcAddr == "" || l.DstNamespace == "" || l.DstWorkload == "" {
		skip(unnamed, 1)
		return
	}
	r, err := l.record()
	if err != nil {
		skip(notUnderstood, 1)
		return
	}
	take(r)
}

func (l *line) record() (r *record, err error) {
	r = &record{ended: l.Time, word: l.Result, plaintext: l.Path == passthrough, pod: name{l.DstNamespace, l.DstWorkload}}
	if l.SrcID != "" {
		if r.id, err = spiffeid.FromString(l.SrcID); err != nil {
			return nil, err
		}
	}
	if len(l.SrcNamespace)+len(l.SrcWorkload) > maxName {
		return nil, errors.New("no pod has so long a name")
	}
	src, err := netip.ParseAddrPort(l.SrcAddr)
	if err != nil {
		return nil, err
	}
	r.src = src.Addr().Unmap()
	if l.SrcWorkload != "" {
		r.from, r.source = l.SrcNamespace+"/"+l.SrcWorkload, name{l.SrcNamespace, l.SrcWorkload}
	}
	r.target, err = netip.ParseAddrPort(cmp.Or(l.HBONEAddr, l.DstAddr))
	return r, err
}
