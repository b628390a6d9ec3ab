// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// Text is what texts hold, read as a Source reads a directory, but once and at once.
type Text struct {
	Objects  []Object
	Mistakes []error // for each of which a Source would keep the last good state
	Remarks  []error // what has no effect, and is no mistake
}

// Object is one of them, also if there are mistakes in it. For a Deployment, or another
// maker of pods, a Pod stands as its template has it, whose name is "deployment/" and the
// maker's: files are often kept without the pods that will be.
type Object struct {
	source.Object
	Place string
}

// Mistake says what is wrong, of which object, and where.
type Mistake struct {
	Place string
	key
	Err error
}

// Error returns "place: Kind namespace/name: what is wrong".
func (m *Mistake) Error() string { return fmt.Sprintf("%s: %v: %v", m.Place, m.key, m.Err) }

// Unwrap returns what is wrong.
func (m *Mistake) Unwrap() error { return m.Err }

// Of returns the object's kind and name, as far as it says them.
func (m *Mistake) Of() (source.Kind, source.Name) { return m.kind, m.name }

// ErrNotEnforced is a Remark about an object that says who may connect, of a kind that the
// mesh does not look at.
var ErrNotEnforced = errors.New("not enforced by the mesh")

// Read reads all files of a directory.
func Read(dir string) (all Text, err error) {
	files, err := list(dir)
	if err != nil {
		return all, err
	}
	for _, f := range files {
		err := f.err
		var data []byte
		if err == nil {
			data, err = read(filepath.Join(dir, f.name))
		}
		if err != nil {
			all.Mistakes = append(all.Mistakes, fmt.Errorf("%s: %w", f.name, pathless(err)))
			continue
		}
		all.Add(f.name, data)
	}
	return all, nil
}

// Add adds what data holds, which is JSON if the name ends so, else YAML.
func (t *Text) Add(name string, data []byte) {
	c := decode(name, data, nil)
	for _, e := range c.entries {
		o := e.object
		if o == nil {
			o = e.rough
		}
		if o != nil {
			t.Objects = append(t.Objects, Object{o, e.place.String()})
		}
	}
	for _, m := range c.makers {
		t.Objects = append(t.Objects, Object{m.pod(), m.place.String()})
	}
	t.Mistakes = append(t.Mistakes, c.errs.all(name)...)
	t.Remarks = append(t.Remarks, c.remarks.all(name)...)
}
