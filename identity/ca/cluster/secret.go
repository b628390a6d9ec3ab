// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/base64"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// secret is the ca.Store that all replicas share. A Secret that does not bear our label
// is its operator's: it is read and followed, and nothing ever writes to it.
//
// The Record is the annotation of the ConfigMap.
type secret struct {
	object
	traces []*published // where the root of a CA that is gone may be found; the first has the Record

	// Only one goroutine at a time calls the methods that use these.
	seen bool // a Secret was there, at one time
	ours bool // and bore our label, when it was seen last
}

// Read is part of ca.Store. The traces are asked first: whoever publishes a root has
// stored its Secret before, so a trace that is found here and no Secret after it means
// that the Secret was deleted.
func (s *secret) Read(ctx context.Context) (ca.Files, error) {
	var traces []trace
	for _, p := range s.traces {
		t, err := p.trace(ctx)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", p, err)
		}
		traces = append(traces, t)
	}
	u, err := s.get(ctx, s.clients[0])
	if err != nil {
		return nil, noAnswer(err)
	}
	if u == nil {
		return nil, s.missing(traces)
	}
	files, err := filesOf(u)
	if err != nil {
		return nil, err
	}
	if !s.seen {
		for _, t := range traces {
			if !t.has(files.Roots()) {
				return nil, fmt.Errorf("its roots are not among those in %v, which nodes trust: restore the Secret from a backup; or, if nothing needs those roots any more, delete the %s",
					t.in, t.in.kind)
			}
		}
	}
	s.seen, s.ours = true, isOurs(u)
	files[ca.BundleFile] = traces[0].text
	return files, nil
}

// missing says what it means that there is no Secret: nil if there never was one.
func (s *secret) missing(traces []trace) error {
	switch {
	case s.seen && s.ours:
		return ca.ErrGone
	case s.seen:
		return fmt.Errorf("it was deleted, and was not Culvert's: put it back")
	}
	for _, t := range traces {
		if t.any() {
			return fmt.Errorf("there is none, and %v holds the root of a CA: restore the Secret from a backup; or, if nothing needs that root any more, delete the %s",
				t.in, t.in.kind)
		}
	}
	return nil
}

func isOurs(u *unstructured.Unstructured) bool { return u.GetLabels()[managedBy] == component }

// filesOf is the data of the CA's Secret, without what is the ConfigMap's.
func filesOf(u *unstructured.Unstructured) (ca.Files, error) {
	files, err := dataOf(u)
	delete(files, ca.BundleFile)
	return files, err
}

// dataOf is all of a Secret's data. It is not nil: the Secret is there, whatever is in it.
func dataOf(u *unstructured.Unstructured) (map[string][]byte, error) {
	var found corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &found); err != nil {
		return nil, err
	}
	if found.Data == nil {
		return map[string][]byte{}, nil
	}
	return found.Data, nil
}

func setData(u *unstructured.Unstructured, files ca.Files) {
	data, _, _ := unstructured.NestedMap(u.Object, "data")
	if data == nil {
		data = map[string]any{}
	}
	for name, content := range files {
		switch {
		case name == ca.BundleFile:
		case content == nil:
			delete(data, name)
		default:
			data[name] = base64.StdEncoding.EncodeToString(content)
		}
	}
	u.Object["data"] = data
}

// Create is part of ca.Store.
func (s *secret) Create(ctx context.Context, files ca.Files) error {
	u := s.blank(0)
	setData(u, files)
	u.Object["type"] = string(corev1.SecretTypeOpaque)
	_, err := s.clients[0].Create(ctx, u, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return ca.ErrExists
	case err != nil:
		return noAnswer(err)
	}
	return nil
}

// Replace is part of ca.Store.
func (s *secret) Replace(ctx context.Context, was, next ca.Files) error {
	if record, there := next[ca.BundleFile]; there {
		return s.traces[0].replaceRecord(ctx, was[ca.BundleFile], record)
	}
	u, err := s.get(ctx, s.clients[0])
	if err != nil {
		return noAnswer(err)
	}
	if u == nil {
		return fmt.Errorf("%v: %w", s, ca.ErrChanged)
	}
	files, err := filesOf(u)
	switch {
	case err != nil:
		return err
	case !files.Same(was):
		return fmt.Errorf("%v: %w", s, ca.ErrChanged)
	case !isOurs(u):
		return fmt.Errorf("%v: %w: it lacks the label %s=%s, and so is not Culvert's", s, ca.ErrReadOnly, managedBy, component)
	}
	setData(u, next)
	return s.put(ctx, s.clients[0], u, true)
}

// Watch is part of ca.Store. The Record is watched too: another replica may have
// numbered the bundle.
func (s *secret) Watch(ctx context.Context, changed func()) {
	secret, record := s.watched(ctx), s.traces[0].watched(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-secret:
		case <-record:
		}
		changed()
	}
}
