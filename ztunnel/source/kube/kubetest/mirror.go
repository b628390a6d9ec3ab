// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Mirror serves the objects of a directory of YAML, one in a file, until ctx ends;
// kinds that are not offered are left out. It returns what it cannot read.
func (s *Server) Mirror(ctx context.Context, dir string) error {
	last, objects := map[string]string{}, map[string]Object{}
	for ctx.Err() == nil {
		paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil {
			return err
		}
		now := map[string]string{}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				continue // it was removed since
			}
			if now[path] = string(text); err != nil {
				return err
			}
			if now[path] == last[path] {
				continue
			}
			o, err := decode(text)
			if err != nil {
				return err
			}
			if s.offers(resourceOf(o)) {
				objects[path] = o
				s.Set(o)
			}
		}
		for path, o := range objects {
			if _, there := now[path]; !there {
				s.Delete(o)
				delete(objects, path)
			}
		}
		last = now
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

func (s *Server) offers(resource string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[resource] != nil
}

func decode(text []byte) (Object, error) {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &u.Object); err != nil {
		return nil, err
	}
	known, err := scheme.New(schema.FromAPIVersionAndKind(u.GetAPIVersion(), u.GetKind()))
	if err != nil {
		return u, nil // a custom resource
	}
	return known.(Object), yaml.Unmarshal(text, known)
}
