// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// restoreAfter is how long a Secret must be gone before a replica makes it again:
// tools that replace an object delete it first.
const restoreAfter = 10 * time.Second

// secret is the ca.Store that all replicas share.
type secret struct {
	object
	traces []*published // where the root of a CA that is gone may be found

	// Only the goroutine of open, and then that of follow, uses these.
	good    ca.Files  // that this replica last took
	refused ca.Files  // that it refused last
	gone    time.Time // since when there is no Secret; zero while there is
}

// Read returns what the Secret holds. The traces are asked first: whoever
// publishes a root has stored its Secret before, so a trace that is found here
// and no Secret after it means that the Secret was deleted.
func (s *secret) Read(ctx context.Context) (ca.Files, error) {
	var traces []trace
	for _, p := range s.traces {
		t, err := p.trace(ctx)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", p, err)
		}
		traces = append(traces, t)
	}
	files, err := s.stored(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range traces {
		switch {
		case len(t.roots) == 0:
		case files == nil:
			return nil, fmt.Errorf("there is none, and %v holds the root of a CA: restore the Secret from a backup; or, if nothing needs that root any more, delete the %s",
				t.in, t.in.kind)
		case !t.has(files[ca.RootFile]):
			return nil, fmt.Errorf("its %s is not among the roots in %v, which nodes trust: restore the Secret from a backup; or, if nothing needs those roots any more, delete the %s",
				ca.RootFile, t.in, t.in.kind)
		}
	}
	s.good = files
	return files, nil
}

// stored returns the Secret's data, or nil if there is no Secret.
func (s *secret) stored(ctx context.Context) (ca.Files, error) {
	u, err := s.get(ctx, s.clients[0])
	if err != nil {
		return nil, noAnswer(err)
	}
	if u == nil {
		return nil, nil
	}
	var found corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &found); err != nil {
		return nil, err
	}
	files := ca.Files{} // not nil: the Secret is there, whatever is in it
	maps.Copy(files, found.Data)
	return files, nil
}

// Create is part of ca.Store.
func (s *secret) Create(ctx context.Context, files ca.Files) error {
	u := s.blank(0)
	data := map[string]any{}
	for name, content := range files {
		data[name] = base64.StdEncoding.EncodeToString(content)
	}
	u.Object["data"] = data
	u.Object["type"] = string(corev1.SecretTypeOpaque)
	_, err := s.clients[0].Create(ctx, u, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return ca.ErrExists
	case err != nil:
		return noAnswer(err)
	}
	s.good = files
	return nil
}

// refuse reports whether these are other files than the last that were refused.
func (s *secret) refuse(files ca.Files) bool {
	again := maps.EqualFunc(files, s.refused, bytes.Equal)
	s.refused = files
	return !again
}

var errDeleted = errors.New("it was deleted; this replica signs on, and makes it again by what it has in memory")

// restore makes the Secret again that somebody deleted. No second root comes of
// that: it is what all replicas have in force.
func (k *Keeper) restore(ctx context.Context) error {
	s := k.secret
	if s.gone.IsZero() {
		s.gone = time.Now()
	}
	if time.Since(s.gone) < restoreAfter {
		return errDeleted
	}
	switch err := s.Create(ctx, s.good); {
	case errors.Is(err, ca.ErrExists):
		return nil // another replica was faster
	case err != nil:
		return fmt.Errorf("%w: %w", errDeleted, err)
	}
	s.gone = time.Time{}
	k.count(secretRestored)
	k.log.Warn("the Secret was deleted, and is made again", logObject, s.String())
	return nil
}
