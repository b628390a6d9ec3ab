// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// published is an object with a text in which others find roots.
type published struct {
	object
	path []string // of the text
}

// trace is what an object tells of a CA that published there.
type trace struct {
	in    *published
	roots []*x509.Certificate
}

// has reports whether the first certificate of a text is among the roots.
func (t trace) has(text []byte) bool {
	block, _ := pem.Decode(text)
	if block == nil {
		return true // no certificate: whoever reads the text says that
	}
	return slices.ContainsFunc(t.roots, func(root *x509.Certificate) bool { return string(root.Raw) == string(block.Bytes) })
}

// trace returns the roots that are published now.
func (p *published) trace(ctx context.Context) (trace, error) {
	_, u, err := p.now(ctx)
	if err != nil || u == nil {
		return trace{in: p}, err
	}
	text, _, err := unstructured.NestedString(u.Object, p.path...)
	roots, _ := parseRoots([]byte(text))
	return trace{in: p, roots: roots}, err
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

// publish has the CA's root in the object's text. If another hand was there in
// between, the API server refuses, and the next look starts from what that did.
func (k *Keeper) publish(ctx context.Context, p *published) error {
	client, u, err := p.now(ctx)
	if err != nil || client == nil {
		return err
	}
	there := u != nil
	if !there {
		u = p.blank(slices.Index(p.clients, client))
	}
	text, _, err := unstructured.NestedString(u.Object, p.path...)
	if err != nil {
		return err
	}
	next := withRoot(text, k.ca.Roots()[0])
	if next == text {
		return nil
	}
	if err := unstructured.SetNestedField(u.Object, next, p.path...); err != nil {
		return err
	}
	if there {
		_, err = client.Update(ctx, u, metav1.UpdateOptions{})
	} else {
		_, err = client.Create(ctx, u, metav1.CreateOptions{})
	}
	if err != nil {
		return noAnswer(err)
	}
	k.count(rootPublished)
	k.log.Info("root published", logObject, p.String())
	return nil
}
