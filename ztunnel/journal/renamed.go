// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"io"
)

// renamed rewrites the begin of what slog.JSONHandler writes. HandlerOptions.ReplaceAttr
// could do the same; it is asked about each attribute, and costs each record a third more.
// The handler calls Write once a record, and under a lock.
type renamed struct {
	w    io.Writer
	line []byte
}

// maxKept is the longest line whose memory stays for the next.
const maxKept = 64 << 10

var (
	levelKey = []byte(`"level":"`)
	textKey  = []byte(`","msg":"`)
)

// Write passes the record on. What does not begin as expected stays as it is: its time is
// left out if it has none, and never holds a quote or a brace.
func (r *renamed) Write(record []byte) (int, error) {
	begin, rest, found := bytes.Cut(record, levelKey)
	level, rest, separated := bytes.Cut(rest, textKey)
	if !found || !separated || bytes.Count(begin, []byte(`"`)) > 4 || bytes.IndexByte(level, '"') >= 0 {
		return r.w.Write(record)
	}
	r.line = append(append(r.line[:0], begin...), levelKey...)
	for _, c := range level {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		r.line = append(r.line, c)
	}
	r.line = append(r.line, `","message":"`...)
	r.line = append(r.line, rest...)
	_, err := r.w.Write(r.line)
	if cap(r.line) > maxKept {
		r.line = nil
	}
	if err != nil {
		return 0, err
	}
	return len(record), nil
}
