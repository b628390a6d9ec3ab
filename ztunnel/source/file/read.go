// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// reading is one object that is read.
type reading struct {
	c      *contents
	at     place
	key    key
	broken bool
	vague  bool // a mistake could concern any field
}

func (r *reading) fail(err error) {
	r.broken = true
	r.c.errs.add(&Mistake{r.at.String(), r.key, err})
}

func (r *reading) remark(err error) { r.c.remarks.add(&Mistake{r.at.String(), r.key, err}) }

// Error says where a fault is.
func (f fault) Error() string {
	var b strings.Builder
	if f.line > 0 {
		fmt.Fprintf(&b, "line %d: ", f.line)
	}
	for i, part := range f.path {
		if _, err := strconv.Atoi(part); err == nil {
			fmt.Fprintf(&b, "[%s]", part)
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteString(part)
	}
	if len(f.path) > 0 {
		b.WriteString(": ")
	}
	return b.String() + f.text
}

// read adds the object to the contents. One that is not understood has its place there,
// so that it is not taken for deleted.
func (r *reading) read(text []byte, h header, k kind, wrong []fault) {
	if r.key.name.Name == "" {
		r.c.blind = true // which one it is cannot be told
	}
	for _, w := range wrong {
		r.vague = true
		r.fail(w)
	}
	o := k.make()
	decoded := r.decode(text, k, o)
	r.nulls(text)
	if !r.broken {
		o.SetNamespace(r.key.name.Namespace)
		for _, err := range validate(o) {
			r.fail(err)
		}
	}
	understood := !r.broken
	r.meshLabel(o)
	e := entry{place: r.at, key: r.key, broken: r.broken, text: sha256.Sum256(text)}
	switch {
	case understood:
		e.object = o
		if p, ok := o.(*source.AuthorizationPolicy); ok {
			for _, warning := range p.Warnings() {
				r.remark(fmt.Errorf("%s: lets nothing in", warning))
			}
		}
	case decoded:
		o.SetNamespace(r.key.name.Namespace)
		e.rough, e.vague = o, r.vague
	}
	switch o := o.(type) {
	case *corev1.Pod:
		e.open = len(h.Status) == 0
		e.mark = sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%q", lasting(h.Metadata), h.Spec, podTells(o)))
	case *corev1.Node:
		e.mark = sha256.Sum256(fmt.Appendf(nil, "%q\n%s\n%q", o.Labels, h.Spec, o.Status.Addresses))
	default:
		e.mark = e.text
	}
	r.c.note(e.mark)
	r.c.entries = append(r.c.entries, e)
}

// lasting returns a pod's metadata without what changes whenever its status does.
func lasting(metadata json.RawMessage) (out []byte) {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(metadata, &fields) // what is wrong with it is said elsewhere
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		switch field {
		case "resourceVersion", "generation", "managedFields":
		default:
			out = fmt.Appendf(out, "%q: %s\n", field, fields[field])
		}
	}
	return out
}

// meshLabel refuses values which mean nothing: a pod that somebody wanted in the mesh
// must not stay outside because of a typing error.
func (r *reading) meshLabel(o object) {
	if r.key.kind != source.KindNamespace && r.key.kind != source.KindPod {
		return
	}
	if v, strange := source.StrangeLabel(o.GetLabels()); strange {
		r.fail(fmt.Errorf("metadata.labels[%s]: %q: not %s or %s", source.MeshLabel, v, source.MeshEnabled, source.MeshDisabled))
	}
	if what := source.StrangeMode(o); what != "" {
		r.fail(errors.New(what))
	}
}

// decode fills into, and reports whether it could. What is wrong names the field.
func (r *reading) decode(text []byte, k kind, into object) bool {
	strict, err := kjson.UnmarshalStrict(text, into)
	for _, s := range strict {
		if k.lenient && passable(s) {
			r.remark(fmt.Errorf("%v: passed over", s))
			continue
		}
		_, unknown := strings.CutPrefix(s.Error(), "unknown field ")
		r.vague = r.vague || !unknown
		r.fail(s)
	}
	if err == nil {
		return true
	}
	r.vague = true
	path, value := "", ""
	if !r.c.errs.full() {
		path, value = blame(text, k.make)
	}
	if path != "" {
		err = fmt.Errorf("%s: %s: %v", path, value, strings.TrimPrefix(err.Error(), "json: "))
	}
	r.fail(err)
	return false
}

// passable is a field that is unknown inside of spec, status or the like. A newer
// Kubernetes may have it.
func passable(err error) bool {
	field, unknown := strings.CutPrefix(err.Error(), `unknown field "`)
	return unknown && strings.ContainsAny(field, ".[") && !strings.HasPrefix(field, "metadata")
}

// nulls refuses what has no value where one decides: a label that is compared, and
// anything of a policy.
func (r *reading) nulls(text []byte) {
	if !bytes.Contains(text, []byte("null")) {
		return
	}
	var root map[string]any
	if kjson.UnmarshalCaseSensitivePreserveInts(text, &root) != nil {
		return
	}
	meta, _ := root["metadata"].(map[string]any)
	r.null("metadata.labels", meta["labels"], true)
	spec, has := root["spec"]
	switch fields, _ := spec.(map[string]any); {
	case isPolicy(string(r.key.kind)) && has:
		r.null("spec", spec, false)
	case r.key.kind == source.KindService:
		r.null("spec.selector", fields["selector"], true)
	}
}

func (r *reading) null(path string, v any, may bool) {
	switch v := v.(type) {
	case nil:
		if !may {
			r.vague = true
			r.fail(fmt.Errorf("%s: has no value", path))
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			r.null(path+"."+key, v[key], false)
		}
	case []any:
		for i, item := range v {
			r.null(fmt.Sprintf("%s[%d]", path, i), item, false)
		}
	}
}
