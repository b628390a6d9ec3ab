// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path"
	"unicode/utf8"
)

// document is one of a file's objects, as text.
type document struct {
	text []byte
	at   int // where it begins in the file
	json bool
}

// split cuts a file into its documents; those without content are left out.
func split(name string, data []byte) ([]document, error) {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return nil, errEmpty
	case !utf8.Valid(data):
		return nil, errors.New("not UTF-8")
	case path.Ext(name) == ".json":
		return splitJSON(data)
	}
	return splitYAML(data), nil
}

// splitJSON takes one value after another.
func splitJSON(data []byte) ([]document, error) {
	var docs []document
	for dec := json.NewDecoder(bytes.NewReader(data)); ; {
		var text json.RawMessage
		if err := dec.Decode(&text); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, err
		}
		docs = append(docs, document{text: text, json: true})
	}
}

// splitYAML cuts at the markers "---" and "...", which are only such at the
// start of a line. The parser reads one document and drops all that follow it,
// so a marker that is missed here would lose objects in silence.
func splitYAML(data []byte) []document {
	var docs []document
	dashes, dots := occurrences{of: []byte("---")}, occurrences{of: []byte("...")}
	start := 0
	for pos := 0; ; pos++ {
		pos = min(dashes.next(data, pos), dots.next(data, pos))
		end := pos == len(data)
		if !end && !(startsLine(data, pos) && marker(data[pos:])) {
			continue
		}
		if hasContent(data[start:pos]) {
			docs = append(docs, document{text: data[start:pos], at: start})
		}
		if end {
			return docs
		}
		start = pos + len("---")
	}
}

// occurrences finds a text again and again, and reads no byte twice for it.
type occurrences struct {
	of []byte
	at int // the last one that was found
	on bool
}

// next returns where the first one is at or after pos, or the end of data.
func (o *occurrences) next(data []byte, pos int) int {
	if o.on && o.at >= pos {
		return o.at
	}
	o.on, o.at = true, len(data)
	if i := bytes.Index(data[pos:], o.of); i >= 0 {
		o.at = pos + i
	}
	return o.at
}

func startsLine(data []byte, pos int) bool {
	before := data[:pos]
	return pos == 0 || data[pos-1] == '\n' || data[pos-1] == '\r' || bytes.HasSuffix(before, []byte("\u0085")) ||
		bytes.HasSuffix(before, []byte("\u2028")) || bytes.HasSuffix(before, []byte("\u2029"))
}

func marker(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("---")) && !bytes.HasPrefix(line, []byte("...")) {
		return false
	}
	return len(line) == 3 || line[3] == ' ' || line[3] == '\t' || lineBreak(line[3:]) > 0
}

// lineLength returns how long the first line is, with its end.
func lineLength(data []byte) int {
	for i := range data {
		if n := lineBreak(data[i:]); n > 0 {
			return i + n
		}
	}
	return len(data)
}

// lineBreak returns the length of what ends a line in YAML 1.1, or 0.
func lineBreak(data []byte) int {
	switch {
	case bytes.HasPrefix(data, []byte("\r\n")):
		return 2
	case data[0] == '\n' || data[0] == '\r':
		return 1
	case data[0] == 0xc2 && bytes.HasPrefix(data, []byte("\u0085")):
		return 2
	case data[0] == 0xe2 && (bytes.HasPrefix(data, []byte("\u2028")) || bytes.HasPrefix(data, []byte("\u2029"))):
		return 3
	}
	return 0
}

// linesBefore returns how many lines end before a document that begins there: behind a
// marker, or at the start.
func linesBefore(data []byte, at int) (n int) {
	for data = data[:at]; len(data) > 0; n++ {
		data = data[lineLength(data):]
	}
	return max(n-1, 0)
}

// hasContent reports whether there is more than blanks, comments and directives.
func hasContent(text []byte) bool {
	for len(text) > 0 {
		n := lineLength(text)
		line := bytes.TrimSpace(text[:n])
		if len(line) > 0 && line[0] != '#' && text[0] != '%' {
			return true
		}
		text = text[n:]
	}
	return false
}
