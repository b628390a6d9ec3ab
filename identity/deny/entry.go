// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/yaml"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/strictyaml"
)

// Key is where a set stands in a ConfigMap.
const Key = "deny.yaml"

// Bounds of a set.
const (
	MaxEntries = 10_000
	MaxReason  = 256     // bytes
	MaxText    = 4 << 20 // bytes of YAML
	maxID      = 2048    // bytes; SPIFFE-ID, 2.3
)

// Kind is what sort of thing an entry denies.
type Kind string

// The kinds, by their names in YAML.
const (
	KindID     Kind = "id"     // an identity
	KindNode   Kind = "node"   // all that was issued, or would be, to a node
	KindSerial Kind = "serial" // one certificate, and what would be had by it: a process outside Kubernetes renews by its own
	KindSPKI   Kind = "spki"   // one key
	KindIssuer Kind = "issuer" // all that an issuer signed, or would
)

// Entry denies one thing.
type Entry struct {
	Kind   Kind
	Value  string    // as Subject has it; a serial number in lower-case hexadecimal digits without leading zeros
	Until  time.Time // when it ends by itself, UTC; zero: never
	Reason string    // a sentence for people, of at most MaxReason bytes; none
}

// New returns an entry whose value is as Subject has it, whatever form it is given in: hexadecimal
// digits in either case, with colons or without. An error names what is wrong with it.
func New(kind Kind, value string, until time.Time, reason string) (Entry, error) {
	w := written{Reason: reason}
	field, known := w.fields()[kind]
	if !known {
		return Entry{}, fmt.Errorf("%q is nothing that can be denied", kind)
	}
	if *field = value; value == "" {
		return Entry{}, fmt.Errorf("%s: empty", kind)
	}
	e, err := w.entry()
	if !until.IsZero() {
		e.Until = until.UTC()
	}
	return e, err
}

// Is reports whether both deny the same, for whatever time and reason.
func (e Entry) Is(other Entry) bool { return e.key() == other.key() }

// InForce reports whether the entry has not ended.
func (e Entry) InForce(now time.Time) bool { return e.Until.IsZero() || now.Before(e.Until) }

// String is the entry for people, as "node node-7, until 2026-12-24T00:00:00Z: stolen".
func (e Entry) String() string {
	text := string(e.Kind) + " " + e.Value
	if !e.Until.IsZero() {
		text += ", until " + e.Until.Format(time.RFC3339)
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

func (e Entry) key() key { return key{e.Kind, e.Value} }

// written is an entry in YAML.
type written struct {
	ID     string `json:"id,omitempty"`
	Node   string `json:"node,omitempty"`
	Serial string `json:"serial,omitempty"`
	SPKI   string `json:"spki,omitempty"`
	Issuer string `json:"issuer,omitempty"`
	Until  string `json:"until,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Parse reads a set. An error names the entry by its number, from 0, and the field; no
// part of a set that is wrong is returned. A text without a list is wrong, too: half of
// a file must not pass for an empty set.
func Parse(text []byte) ([]Entry, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("longer than %d bytes", MaxText)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("empty: a set that denies nothing is []")
	}
	list, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("not a list of entries: %v", err)
	}
	if list == nil {
		return nil, errors.New("no list: a set that denies nothing is []")
	}
	if len(list) > MaxEntries {
		return nil, fmt.Errorf("%d entries, the limit is %d", len(list), MaxEntries)
	}
	entries := make([]Entry, 0, len(list))
	for i, w := range list {
		e, err := w.entry()
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// decode goes by JSON, so that YAML makes no number of digits: 4e12 is one serial number,
// and 4000000000000 another. Such a value must stand in quotes.
func decode(text []byte) ([]written, error) {
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	var list []written
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err = d.Decode(&list)
	var number *json.UnmarshalTypeError
	if errors.As(err, &number) && number.Field != "" {
		err = fmt.Errorf("%s: a %s: put it in quotes", number.Field, number.Value)
	}
	if err != nil {
		return nil, err
	}
	return list, strictyaml.Unmarshal(text, &[]written{}) // which no second document, or spelling, escapes
}

// Format writes a set that Parse reads.
func Format(entries []Entry) ([]byte, error) {
	list := make([]written, 0, len(entries))
	for _, e := range entries {
		w := written{Reason: e.Reason}
		if !e.Until.IsZero() {
			w.Until = e.Until.UTC().Format(time.RFC3339)
		}
		field, known := w.fields()[e.Kind]
		if !known {
			return nil, fmt.Errorf("%q is nothing that can be denied", e.Kind)
		}
		*field = e.Value
		if _, err := w.entry(); err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return yaml.Marshal(list)
}

func (w *written) fields() map[Kind]*string {
	return map[Kind]*string{KindID: &w.ID, KindNode: &w.Node, KindSerial: &w.Serial, KindSPKI: &w.SPKI, KindIssuer: &w.Issuer}
}

func (w *written) entry() (Entry, error) {
	e := Entry{Reason: w.Reason}
	for kind, field := range w.fields() {
		if *field == "" {
			continue
		}
		if e.Kind != "" {
			return Entry{}, errors.New("want exactly one of id, node, serial, spki and issuer")
		}
		e.Kind, e.Value = kind, *field
	}
	if e.Kind == "" {
		return Entry{}, errors.New("want one of id, node, serial, spki and issuer")
	}
	var err error
	if e.Value, err = checked(e.Kind, e.Value); err != nil {
		return Entry{}, fmt.Errorf("%s: %w", e.Kind, err)
	}
	if len(e.Reason) > MaxReason {
		return Entry{}, fmt.Errorf("reason: longer than %d bytes", MaxReason)
	}
	if w.Until != "" {
		if e.Until, err = time.Parse(time.RFC3339, w.Until); err != nil {
			return Entry{}, fmt.Errorf("until: %q: want a time as 2026-12-24T00:00:00Z", w.Until)
		}
		e.Until = e.Until.UTC()
	}
	return e, nil
}

// checked is the value as Match compares it.
func checked(kind Kind, value string) (string, error) {
	switch kind {
	case KindID:
		if len(value) > maxID {
			return "", fmt.Errorf("longer than %d bytes", maxID)
		}
		id, err := spiffeid.FromString(value)
		if err != nil {
			return "", fmt.Errorf("%q: %v", value, err)
		}
		_, err = identity.Parse(id)
		return value, err
	case KindNode:
		if len(value) > 253 || strings.ContainsAny(value, "/ \t\r\n") {
			return "", fmt.Errorf("%q is no name of a node", value)
		}
		return value, nil
	case KindSerial:
		digits, err := hexadecimal(value, 1, 20) // RFC 5280, 4.1.2.2
		if digits = strings.TrimLeft(digits, "0"); err == nil && digits == "" {
			err = errors.New("0 is no serial number")
		}
		return digits, err
	case KindSPKI:
		return hexadecimal(value, 32, 32)
	default:
		return hexadecimal(value, 1, 64)
	}
}

// hexadecimal takes digits in either case, with colons between bytes or without.
func hexadecimal(value string, least, most int) (string, error) {
	digits := strings.ToLower(strings.ReplaceAll(value, ":", ""))
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	if _, err := hex.DecodeString(digits); err != nil {
		return "", fmt.Errorf("%q: want hexadecimal digits", value)
	}
	if n := len(digits) / 2; n < least || n > most {
		return "", fmt.Errorf("%q: is of %d bytes, want %d to %d", value, n, least, most)
	}
	return digits, nil
}
