// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/x509"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// published is an object with a text in which others find roots.
type published struct {
	object
	path []string // of the text
}

// trace is what an object tells of a CA that published there.
type trace struct {
	in     *published
	roots  []*x509.Certificate
	text   []byte // of the record
	record ca.Record
}

// any reports whether there ever was a CA.
func (t trace) any() bool { return len(t.roots) > 0 || len(t.text) > 0 }

// has reports whether one of these is among the roots, or a certificate of one, which may
// have been renewed since. If there are none, or nothing is published, it is not for this
// to say what is wrong.
func (t trace) has(roots []*x509.Certificate) bool {
	return len(roots) == 0 || len(t.roots) == 0 ||
		slices.ContainsFunc(roots, func(root *x509.Certificate) bool {
			return slices.ContainsFunc(t.roots, func(there *x509.Certificate) bool { return ca.SameAuthority(root, there) })
		})
}

// trace returns the roots that are published now.
func (p *published) trace(ctx context.Context) (trace, error) {
	_, u, err := p.now(ctx)
	if err != nil || u == nil {
		return trace{in: p}, err
	}
	text, _, err := unstructured.NestedString(u.Object, p.path...)
	t := trace{in: p}
	t.roots, _ = parseRoots([]byte(text))
	t.text, t.record = recordIn(u)
	return t, err
}

// now returns the object, nil if it is not there, and its client, nil if its kind
// is not served.
func (p *published) now(ctx context.Context) (dynamic.ResourceInterface, *unstructured.Unstructured, error) {
	client, err := p.served(ctx)
	if err != nil {
		return nil, nil, noAnswer(err)
	}
	if client == nil {
		return nil, nil, nil
	}
	u, err := p.get(ctx, client)
	if err != nil {
		return nil, nil, noAnswer(err)
	}
	return client, u, nil
}

// publish has the CA's roots in the object's text, and their Record beside it. If
// another hand was there in between, the next look starts from what that did.
func (p *Publisher) publish(ctx context.Context, in *published) error {
	client, u, err := in.now(ctx)
	if err != nil || client == nil {
		return err
	}
	there := u != nil
	if !there {
		u = in.blank(slices.Index(in.clients, client))
	}
	text, _, err := unstructured.NestedString(u.Object, in.path...)
	if err != nil {
		return err
	}
	ours, roots := p.ca.Published()
	_, theirs := recordIn(u)
	next := withRoots(text, roots, ours, theirs)
	if next == text && theirs.Generation >= ours.Generation {
		return nil
	}
	if theirs.Generation < ours.Generation {
		setRecord(u, ours.Encode())
	}
	if err := unstructured.SetNestedField(u.Object, next, in.path...); err != nil {
		return err
	}
	if err := in.put(ctx, client, u, there); err != nil {
		return err
	}
	if next != text {
		p.count(rootPublished)
		p.log.Info("roots published", logObject, in.String())
	}
	return nil
}
