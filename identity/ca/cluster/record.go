// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// recordKey is the annotation with the ca.Record of what is published. It is not in
// the Secret, which may be an operator's; and whoever replaces the text of the roots
// does not take it away with that.
const recordKey = "culvert.dev/bundle"

// recordIn returns the annotation's text, and what it says; zero if it says nothing.
func recordIn(u *unstructured.Unstructured) ([]byte, ca.Record) {
	if u == nil {
		return nil, ca.Record{}
	}
	text := []byte(u.GetAnnotations()[recordKey])
	record, err := ca.ParseRecord(text)
	if err != nil {
		return text, ca.Record{} // another replaces it
	}
	return text, record
}

func setRecord(u *unstructured.Unstructured, text []byte) { annotate(u, recordKey, string(text)) }

func annotate(u *unstructured.Unstructured, key, text string) {
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[key] = text
	u.SetAnnotations(annotations)
}

// replaceRecord stores a Record if that there is was.
func (p *published) replaceRecord(ctx context.Context, was, next []byte) error {
	client, u, err := p.now(ctx)
	if err != nil {
		return err
	}
	there := u != nil
	if !there {
		u = p.blank(0)
	}
	if text, _ := recordIn(u); !bytes.Equal(text, was) {
		return fmt.Errorf("%v: %w", p, ca.ErrChanged)
	}
	setRecord(u, next)
	return p.put(ctx, client, u, there)
}

// put updates or creates the object. If another hand was there since it was read, the
// API server refuses.
func (o *object) put(ctx context.Context, client dynamic.ResourceInterface, u *unstructured.Unstructured, there bool) (err error) {
	if there {
		_, err = client.Update(ctx, u, metav1.UpdateOptions{})
	} else {
		_, err = client.Create(ctx, u, metav1.CreateOptions{})
	}
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return fmt.Errorf("%v: %w", o, ca.ErrChanged)
	case err != nil:
		return noAnswer(err)
	}
	return nil
}
