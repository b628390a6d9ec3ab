// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// object is what every kind that we read is.
type object = source.Object

// place is where an object stands.
type place struct {
	file     string
	document int // from 1, as a reader counts
	item     int // of a List, from 1; 0: not in one
}

func (p place) String() string {
	if p.item > 0 {
		return fmt.Sprintf("%s: document %d: items[%d]", p.file, p.document, p.item-1)
	}
	return fmt.Sprintf("%s: document %d", p.file, p.document)
}

// key is an object's own among all.
type key struct {
	kind source.Kind
	name source.Name
}

// String returns "Kind namespace/name".
func (k key) String() string { return strings.TrimRight(string(k.kind)+" "+k.name.String(), " /") }

// sum is a SHA-256.
type sum [sha256.Size]byte

// entry is one object that stands in a file.
type entry struct {
	place
	key
	object object   // nil: not understood
	broken bool     // it has mistakes, which contents.errs names; the object may have a strange label
	open   bool     // a pod without a status, which all writers put behind the rest: its text may go on
	also   []string // the other files of one that stood twice, and was never understood
	rough  object   // of a broken one: all that could be decoded; nil: nothing
	vague  bool     // its mistakes may concern any field
	text   sum      // of all of it
	mark   sum      // of what it asks for: of a pod or Node, without most of its status
}

// contents is what a file holds.
type contents struct {
	entries []entry
	blind   bool     // there is something that may be any object
	mark    sum      // of all marks
	rest    sum      // of all marks and of the text's end, to which a slow writer adds
	marks   []byte   // while it is decoded
	ignored []string // objects of kinds that we do not need
	makers  []maker  // those of them that make pods
	remarks faults   // what must be said, though it is no error
	errs    faults   // each names file, document and, where there is one, field

	sound map[sum]decoded // documents of which nothing has to be said, by the sum of their text
}

// decoded is what a document gave. It stands for any document of the same text.
type decoded struct {
	entries []entry
	marks   []byte
}

// maxFaults is how many mistakes of one file are told, and looked for closely.
const maxFaults = 20

// faults are the first mistakes of a file.
type faults struct {
	list []error
	more int // beyond
}

func (f *faults) add(err error) {
	if len(f.list) == maxFaults {
		f.more++
		return
	}
	f.list = append(f.list, err)
}

func (f *faults) join(others faults) {
	for _, err := range others.list {
		f.add(err)
	}
	f.more += others.more
}

func (f *faults) full() bool { return len(f.list) == maxFaults }

// all returns them as errors, the last of which counts those that are left out.
func (f *faults) all(name string) []error {
	if f.more == 0 {
		return f.list
	}
	return append(f.list[:len(f.list):len(f.list)], fmt.Errorf("%s: and %d more", name, f.more))
}

// decode reads a whole file. Documents that were sound when it was read before are taken
// from there, wherever they stand now; what of them is ignored, and who makes pods, is not
// told again.
func decode(name string, data []byte, before map[sum]decoded) contents {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // it would hide the first marker
	docs, err := split(name, data)
	if err != nil {
		var c contents
		c.unreadable(fmt.Errorf("%s: %w", name, err))
		c.rest = sha256.Sum256(data)
		return c
	}
	parts := make([]contents, min(runtime.GOMAXPROCS(0), max(1, len(docs)/16)))
	var wait sync.WaitGroup
	for i := range parts {
		parts[i].sound = map[sum]decoded{}
		wait.Go(func() {
			for n := len(docs) * i / len(parts); n < len(docs)*(i+1)/len(parts); n++ {
				parts[i].read(place{file: name, document: n + 1}, docs[n], data, before)
			}
		})
	}
	wait.Wait()
	all := together(parts)
	all.rest = sha256.Sum256(append(all.mark[:], data[max(0, len(data)-endBytes):]...))
	return all
}

// endBytes is how much of a text counts as its end.
const endBytes = 256

// together puts the parts of a file in one.
func together(parts []contents) contents {
	all := parts[0]
	for _, c := range parts[1:] {
		all.entries = append(all.entries, c.entries...)
		all.ignored = append(all.ignored, c.ignored...)
		all.makers = append(all.makers, c.makers...)
		all.blind = all.blind || c.blind
		all.marks = append(all.marks, c.marks...)
		all.errs.join(c.errs)
		all.remarks.join(c.remarks)
		maps.Copy(all.sound, c.sound)
	}
	all.mark = sha256.Sum256(all.marks)
	all.marks = nil
	return all
}

// unreadable notes a mistake for which an object cannot be told: it may be any.
func (c *contents) unreadable(err error) {
	c.blind = true
	c.note(sha256.Sum256([]byte(err.Error())))
	c.errs.add(err)
}

func (c *contents) note(mark sum) { c.marks = append(c.marks, mark[:]...) }

// read adds what a document gives.
func (c *contents) read(at place, doc document, file []byte, before map[sum]decoded) {
	text := sha256.Sum256(doc.text)
	if d, known := before[text]; known {
		for _, e := range d.entries {
			e.place.document = at.document
			c.entries = append(c.entries, e)
		}
		c.marks, c.sound[text] = append(c.marks, d.marks...), d
		return
	}
	entries, marks, said, blind := len(c.entries), len(c.marks), c.said(), c.blind
	c.blind = false
	c.document(at, doc, file)
	if c.said() == said && !c.blind {
		c.sound[text] = decoded{slices.Clone(c.entries[entries:]), slices.Clone(c.marks[marks:])}
	}
	c.blind = c.blind || blind
}

// said is how much there is to say of a file so far. Most of it names lines and documents.
func (c *contents) said() int {
	return len(c.errs.list) + c.errs.more + len(c.remarks.list) + c.remarks.more
}

func (c *contents) document(at place, doc document, file []byte) {
	text, wrong := doc.text, []fault(nil)
	if !doc.json {
		var err error
		if text, wrong, err = toJSON(doc.text); err != nil {
			if !c.errs.full() {
				err = shifted(err, linesBefore(file, doc.at))
			}
			c.unreadable(fmt.Errorf("%v: %w", at, err))
			return
		}
	}
	if len(wrong) > 0 && !c.errs.full() {
		for i, before := 0, linesBefore(file, doc.at); i < len(wrong); i++ {
			wrong[i].line += before
		}
	}
	c.add(at, text, wrong, header{})
}

var lineOf = regexp.MustCompile(`\bline (\d+)\b`)

// shifted says the lines in a parser's error as the file counts them.
func shifted(err error, by int) error {
	return errors.New(lineOf.ReplaceAllStringFunc(err.Error(), func(s string) string {
		n, _ := strconv.Atoi(strings.TrimPrefix(s, "line "))
		return "line " + strconv.Itoa(n+by)
	}))
}

// header is what tells how to decode the rest.
type header struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   json.RawMessage   `json:"metadata"`
	Spec       json.RawMessage   `json:"spec"`
	Status     json.RawMessage   `json:"status"`
	Items      []json.RawMessage `json:"items"`
}

// envelope is all that a list may have.
type envelope struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metav1.ListMeta `json:"metadata"`
	Items           []any           `json:"items"`
}

// key returns what the object is, as far as it says so.
func (h header) key() key {
	var meta struct{ Namespace, Name any }
	_ = kjson.UnmarshalCaseSensitivePreserveInts(h.Metadata, &struct {
		Namespace *any `json:"namespace"`
		Name      *any `json:"name"`
	}{&meta.Namespace, &meta.Name}) // what is wrong with it is said later
	namespace, _ := meta.Namespace.(string)
	name, _ := meta.Name.(string)
	if _, known := kinds[h.Kind]; known && !namespaced(h.Kind) {
		namespace = ""
	} else if known && namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return key{source.Kind(h.Kind), source.Name{Namespace: namespace, Name: name}}
}

// add decodes one object, or those of a list. Those in a typed list, like PodList, may
// leave out what they are.
func (c *contents) add(at place, text []byte, wrong []fault, list header) {
	var h header
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &h); err != nil || !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		c.unreadable(fmt.Errorf("%v: not a Kubernetes object", at))
		return
	}
	if h.Kind == "" && h.APIVersion == "" {
		h.APIVersion, h.Kind = list.APIVersion, strings.TrimSuffix(list.Kind, "List")
	}
	switch {
	case h.Kind == "":
		c.unreadable(fmt.Errorf("%v: kind: required", at))
		return
	case h.APIVersion == "":
		c.unreadable(fmt.Errorf("%v: %s: apiVersion: required", at, h.Kind))
		return
	case h.isList():
		c.items(at, text, wrong, h)
		return
	}
	o := reading{c: c, at: at, key: h.key()}
	k, known, err := h.known()
	if !known {
		err = h.mistaken()
	}
	switch {
	case err != nil:
		c.unreadable(fmt.Errorf("%v: %v: %w", at, o.key, err))
	case !known && h.restricts():
		c.note(sha256.Sum256(text))
		c.remarks.add(&Mistake{at.String(), o.key, fmt.Errorf("%s: %w", h.APIVersion, ErrNotEnforced)})
	case !known:
		c.note(sha256.Sum256(text))
		c.ignored = append(c.ignored, fmt.Sprintf("%v: %v (%s)", at, o.key, h.APIVersion))
		if h.makesPods() {
			c.makers = append(c.makers, maker{at, o.key, text})
		}
	default:
		o.read(text, h, k, wrong)
	}
}

func (c *contents) items(at place, text []byte, wrong []fault, h header) {
	fail := func(err error) { c.unreadable(fmt.Errorf("%v: %s: %w", at, h.Kind, err)) }
	if at.item > 0 {
		fail(errors.New("a list in a list"))
		return
	}
	of := make([][]fault, len(h.Items))
	for _, w := range wrong {
		if len(w.path) < 2 || w.path[0] != "items" {
			fail(w)
			continue
		}
		if i, err := strconv.Atoi(w.path[1]); err == nil && i < len(of) {
			w.path = w.path[2:]
			of[i] = append(of[i], w)
		}
	}
	if strict, err := kjson.UnmarshalStrict(text, &envelope{}); err != nil {
		fail(err)
	} else if strict = outer(strict); len(strict) > 0 {
		fail(errors.Join(strict...))
	}
	for i, item := range h.Items {
		at.item = i + 1
		c.add(at, item, of[i], h)
	}
}

// outer leaves out what concerns a list's items: it is said of each.
func outer(errs []error) (out []error) {
	for _, err := range errs {
		if !strings.Contains(err.Error(), `"items[`) {
			out = append(out, err)
		}
	}
	return out
}
