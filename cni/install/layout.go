// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// span is where a JSON value stands in a file. Files of others are edited by
// cutting and pasting text, so that all but the plugins stays as they wrote it:
// unknown keys, their order, numbers, white space.
type span struct{ start, end int }

func (s span) of(data []byte) []byte { return data[s.start:s.end] }

func whole(data []byte) span { return span{0, len(data)} }

// field is one key of an object and where its value stands.
type field struct {
	key   string
	value span
}

var errNotObject = errors.New("want an object")

// fields lists the keys of the object at s in order, or errNotObject.
func fields(data []byte, s span) ([]field, error) {
	dec := json.NewDecoder(bytes.NewReader(s.of(data)))
	if open, err := dec.Token(); err != nil {
		return nil, err
	} else if open != json.Delim('{') {
		return nil, errNotObject
	}
	var all []field
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		value, err := next(dec, s.start)
		if err != nil {
			return nil, err
		}
		all = append(all, field{key.(string), value})
	}
	return all, nil
}

// items lists the elements of the array at s.
func items(data []byte, s span) ([]span, error) {
	dec := json.NewDecoder(bytes.NewReader(s.of(data)))
	if open, err := dec.Token(); err != nil {
		return nil, err
	} else if open != json.Delim('[') {
		return nil, errors.New("want an array")
	}
	var all []span
	for dec.More() {
		item, err := next(dec, s.start)
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

// next reads one value; offset is where the decoder's input begins in the file.
func next(dec *json.Decoder, offset int) (span, error) {
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil {
		return span{}, err
	}
	end := offset + int(dec.InputOffset())
	return span{end - len(value), end}, nil
}

// lookup returns the value of key in the object at s. Of a key that is there
// twice it is the last, which is the one that libcni reads.
func lookup(data []byte, s span, key string) (span, bool, error) {
	all, err := fields(data, s)
	if err != nil {
		return span{}, false, err
	}
	for _, f := range slices.Backward(all) {
		if f.key == key {
			return f.value, true, nil
		}
	}
	return span{}, false, nil
}

// text returns the string that key has in the object at s, or none.
func text(data []byte, s span, key string) (string, error) {
	value, found, err := lookup(data, s, key)
	if err != nil || !found {
		return "", err
	}
	var got string
	if err := json.Unmarshal(value.of(data), &got); err != nil {
		return "", fmt.Errorf("%s: want a string", key)
	}
	return got, nil
}

// edit replaces what stands at a span by other text.
type edit struct {
	span
	text []byte
}

// apply makes edits that do not overlap.
func apply(data []byte, edits ...edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Or(a.start-b.start, a.end-b.end) })
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(append(out, data[at:e.start]...), e.text...)
		at = e.end
	}
	return append(out, data[at:]...)
}

// same reports whether two JSON values differ in white space only.
func same(a, b []byte) bool {
	var left, right bytes.Buffer
	return json.Compact(&left, a) == nil && json.Compact(&right, b) == nil && bytes.Equal(left.Bytes(), right.Bytes())
}
