// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Objects returns those of a resource, sorted by namespace and name.
func (s *Server) Objects(resource string) []Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sorted(s.objects[resource])
}

// target is what the path of a write names.
type target struct{ namespace, resource, name, subresource string }

// parseTarget understands /api/v1[/namespaces/NS]/RESOURCE[/NAME[/SUBRESOURCE]], and
// /apis/GROUP/VERSION in the place of /api/v1. It names resources as resourceOf does.
func parseTarget(path string) (t target) {
	group := groupOf(path)
	parts := strings.Split(strings.Trim(path, "/"), "/")[2+strings.Count(group, "/"):]
	if len(parts) > 2 && parts[0] == "namespaces" {
		t.namespace, parts = parts[1], parts[2:]
	}
	parts = append(parts, "", "")
	t.resource, t.name, t.subresource = parts[0], parts[1], parts[2]
	if _, builtIn := lists[t.resource]; !builtIn {
		t.resource = group + "/" + t.resource
	}
	return t
}

// groupOf returns group and version of a path, as "v1" or "apps/v1".
func groupOf(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "api" {
		return parts[1]
	}
	return parts[1] + "/" + parts[2]
}

func (t target) String() string {
	if t.subresource == "" {
		return t.resource
	}
	return t.resource + "/" + t.subresource
}

// write answers POST, PUT and PATCH, which Asked knows as "create events", "update
// secrets" and "patch pods/status". Of patches it understands merge patches, and of
// JSON patches test and remove.
func (s *Server) write(w http.ResponseWriter, r *http.Request) {
	t := parseTarget(r.URL.Path)
	a := &answer{w: w, resource: t.resource}
	body, _ := io.ReadAll(r.Body)
	var o Object
	var err *apierrors.StatusError
	switch r.Method {
	case http.MethodPost:
		o, err = s.create(t, body)
	case http.MethodPut:
		o, err = s.update(t, body)
	case http.MethodPatch:
		o, err = s.patch(t, types.PatchType(r.Header.Get("Content-Type")), body)
	default:
		err = apierrors.NewMethodNotSupported(schema.GroupResource{Resource: t.resource}, r.Method)
	}
	if err != nil {
		a.fail(err)
		return
	}
	w.Header().Set("Content-Type", a.mediaType())
	w.Write(a.encode(withKind(o)))
}

func (s *Server) create(t target, body []byte) (Object, *apierrors.StatusError) {
	o, err := decode(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return o, s.change("create", t, func() (Object, *apierrors.StatusError) {
		if _, known := s.objects[t.resource][keyOf(o)]; known {
			return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: t.resource}, o.GetName())
		}
		return o, nil
	})
}

// update takes an object if its resource version is still the last.
func (s *Server) update(t target, body []byte) (Object, *apierrors.StatusError) {
	o, err := decode(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return o, s.change("update", t, func() (Object, *apierrors.StatusError) {
		old, known := s.objects[t.resource][keyOf(o)]
		switch {
		case !known:
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: t.resource}, t.name)
		case o.GetResourceVersion() != old.GetResourceVersion():
			return nil, apierrors.NewConflict(schema.GroupResource{Resource: t.resource}, t.name, errors.New("the object has been modified"))
		}
		return o, nil
	})
}

func (s *Server) patch(t target, kind types.PatchType, body []byte) (o Object, err *apierrors.StatusError) {
	return o, s.change("patch", t, func() (Object, *apierrors.StatusError) {
		old, known := s.objects[t.resource][t.namespace+"/"+t.name]
		if !known {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: t.resource}, t.name)
		}
		next, err := patched(old, kind, body)
		switch {
		case err != nil:
		case next.GetUID() != old.GetUID():
			err = apierrors.NewConflict(schema.GroupResource{Resource: t.resource}, t.name, fmt.Errorf("the UID is %s", old.GetUID()))
		case next.GetResourceVersion() != old.GetResourceVersion():
			err = apierrors.NewConflict(schema.GroupResource{Resource: t.resource}, t.name, errors.New("the object has been modified"))
		}
		o = next
		return next, err
	})
}

// change counts a request and, unless it is refused, puts what made returns.
func (s *Server) change(verb string, t target, made func() (Object, *apierrors.StatusError)) *apierrors.StatusError {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[verb+" "+t.String()]++
	if err := s.refused[verb+" "+t.String()]; err != nil {
		return err
	}
	if s.objects[t.resource] == nil {
		return apierrors.NewNotFound(schema.GroupResource{}, "page")
	}
	o, err := made()
	if err == nil {
		s.put(o)
		s.announce()
	}
	return err
}

// patched returns a copy of an object with a patch applied.
func patched(o Object, kind types.PatchType, body []byte) (Object, *apierrors.StatusError) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	var document any
	if err := json.Unmarshal(data, &document); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	switch kind {
	case types.MergePatchType:
		var changes map[string]any
		if err := json.Unmarshal(body, &changes); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		merge(document.(map[string]any), changes)
	case types.JSONPatchType:
		if err := applyJSON(document, body); err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, true)
		}
	default:
		return nil, apierrors.NewBadRequest("a patch of type " + string(kind))
	}
	next := reflect.New(reflect.TypeOf(o).Elem()).Interface().(Object)
	if data, err = json.Marshal(document); err == nil {
		err = json.Unmarshal(data, next)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return next, nil
}

// merge is RFC 7386.
func merge(into, changes map[string]any) {
	for key, value := range changes {
		inner, isMap := value.(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap:
			old, ok := into[key].(map[string]any)
			if !ok {
				old = map[string]any{}
				into[key] = old
			}
			merge(old, inner)
		default:
			into[key] = value
		}
	}
}

// applyJSON is RFC 6902 as far as it tests and removes members of objects and lists.
func applyJSON(document any, body []byte) error {
	var steps []struct {
		Op, Path string
		Value    any
	}
	if err := json.Unmarshal(body, &steps); err != nil {
		return err
	}
	for _, step := range steps {
		path := strings.Split(strings.TrimPrefix(step.Path, "/"), "/")
		err := at(document, path, func(value any) (keep bool, err error) {
			switch {
			case step.Op == "remove":
				return false, nil
			case step.Op != "test":
				return true, fmt.Errorf("op %s is not understood", step.Op)
			case !reflect.DeepEqual(value, step.Value):
				return true, fmt.Errorf("test of %s failed", step.Path)
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// at calls f with what path leads to, and removes that from its parent unless f
// keeps it.
func at(parent any, path []string, f func(any) (keep bool, err error)) error {
	object, isObject := parent.(map[string]any)
	if !isObject {
		return fmt.Errorf("no object at %v", path)
	}
	key, rest := strings.ReplaceAll(path[0], "~1", "/"), path[1:]
	value, there := object[key]
	if !there {
		return fmt.Errorf("no %s", key)
	}
	if list, isList := value.([]any); isList && len(rest) == 1 {
		i, err := strconv.Atoi(rest[0])
		if err != nil || i < 0 || i >= len(list) {
			return fmt.Errorf("no element %s of %s", rest[0], key)
		}
		keep, err := f(list[i])
		if !keep {
			object[key] = slices.Delete(list, i, i+1)
		}
		return err
	}
	if len(rest) > 0 {
		return at(value, rest, f)
	}
	keep, err := f(value)
	if !keep {
		delete(object, key)
	}
	return err
}

// put makes an object, or changes it; mu is held.
func (s *Server) put(o Object) {
	resource := resourceOf(o)
	s.version++
	o = o.DeepCopyObject().(Object)
	o.SetResourceVersion(strconv.Itoa(s.version))
	kind := watch.Modified
	if _, known := s.objects[resource][keyOf(o)]; !known {
		kind = watch.Added
	}
	s.objects[resource][keyOf(o)] = o
	s.changes[resource] = append(s.changes[resource], change{s.version, kind, o})
}
