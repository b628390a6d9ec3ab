// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

const (
	// besides ends the name of the namespace that is in Istio's mesh.
	besides = "-istio"

	again = 500 * time.Millisecond // until the API server is asked once more
	// late is how long after a creation without an answer its namespace may come.
	late = 10 * time.Second
)

// Namespaces are those that a measurement makes, with and without Istio.
func Namespaces(namespace string) []string { return []string{namespace, namespace + besides} }

// namespaces are those of this stage.
func (s *Stage) namespaces() []string {
	if s.Istio {
		return Namespaces(s.Namespace)
	}
	return []string{s.Namespace}
}

// makeNamespaces makes those of the stage. Ours is off in Istio's: Culvert reads its label,
// too.
func (s *Stage) makeNamespaces(ctx context.Context) error {
	for _, name := range s.namespaces() {
		labels := map[string]string{managedBy: owner, runLabel: s.run}
		if name != s.Namespace {
			labels[istioLabel], labels[meshLabel] = "ambient", "disabled"
		}
		ns := corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		err := s.API.Create(ctx, "/api/v1/namespaces", ns)
		switch {
		case apierrors.IsAlreadyExists(err):
			return fmt.Errorf("namespace %s is there already: if an earlier measurement has left it, remove it by culvert bench clean", name)
		case err == nil:
			s.made = append(s.made, name)
		case refused(err):
			return fmt.Errorf("make namespace %s: %w", name, err)
		default:
			s.made, s.unanswered = append(s.made, name), name
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	return nil
}

// refused reports whether the API server answered that it did not do it. After any other
// error it may have done it, or may yet.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500
}

// Remove deletes what Build made or may have made, and waits until it is gone. An API
// server that does not answer is asked again until ctx ends.
func (s *Stage) Remove(ctx context.Context) (err error) {
	for _, name := range s.made {
		mine := func(ns corev1.Namespace) error {
			if ns.Labels[runLabel] != s.run {
				return errNotMine
			}
			return nil
		}
		r := removal{api: s.API, mine: mine, patient: true}
		if name == s.unanswered {
			r.comes = late
		}
		if _, e := r.of(ctx, name); !errors.Is(e, errNotMine) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// errNotMine: another run made the namespace; this one made none.
var errNotMine = errors.New("the namespace is another run's")

// Clean deletes a namespace, if some measurement made it, and waits until it is gone.
func Clean(ctx context.Context, api *kubeapi.API, namespace string) (was bool, err error) {
	return removal{api: api, mine: func(ns corev1.Namespace) error {
		if ns.Labels[managedBy] != owner {
			return fmt.Errorf("namespace %s is not one that culvert bench has made: it has no label %s=%s", namespace, managedBy, owner)
		}
		return nil
	}}.of(ctx, namespace)
}

// removal is how a namespace is deleted.
type removal struct {
	api     *kubeapi.API
	mine    func(corev1.Namespace) error // an error if it is to stay
	patient bool                         // ask again if the API server does not answer
	comes   time.Duration                // how long it may yet come
}

func (r removal) of(ctx context.Context, namespace string) (was bool, err error) {
	path, begin := "/api/v1/namespaces/"+namespace, time.Now()
	for deleted := false; ; {
		var ns corev1.Namespace
		err := r.api.Object(ctx, path, &ns)
		if err == nil {
			if err := r.mine(ns); err != nil {
				return deleted, err
			}
			if !deleted {
				err = r.api.Delete(ctx, path)
				deleted = err == nil || apierrors.IsNotFound(err)
			}
		}
		gone := apierrors.IsNotFound(err)
		switch {
		case gone && (deleted || time.Since(begin) >= r.comes):
			return deleted, nil
		case err != nil && !gone && (!r.patient || refused(err)):
			return deleted, err
		}
		select {
		case <-ctx.Done():
			if err != nil && !gone {
				return deleted, fmt.Errorf("remove namespace %s: %w", namespace, err)
			}
			return true, fmt.Errorf("namespace %s is being deleted, and still there", namespace)
		case <-time.After(again):
		}
	}
}
