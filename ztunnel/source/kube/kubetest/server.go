// SPDX-License-Identifier: Apache-2.0

// Package kubetest is an API server without a Kubernetes behind it, for tests of
// whoever lists, watches and writes.
package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
)

// Server speaks list and watch as a Kubernetes API server does: in protobuf to
// whoever asks for it, with bookmarks, resource versions that expire or are too
// large, and streaming lists. It takes creates, updates and patches in JSON.
type Server struct {
	mu        sync.Mutex
	version   int
	restored  int // how often
	oldest    int // changes up to this version are forgotten
	objects   map[string]map[string]Object
	changes   map[string][]change
	changed   chan struct{} // closed by the next change
	refused   map[string]*apierrors.StatusError
	noStreams bool
	requests  map[string]int // by "list pods" and the like
	accepted  map[string]int // answers by media type
	vouch     func(authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus
}

// Object is what the server and its clients both have.
type Object interface {
	runtime.Object
	metav1.Object
}

type change struct {
	version int
	kind    watch.EventType
	object  Object
}

// New returns a server of Kubernetes' own kinds, without objects.
func New() *Server {
	s := &Server{
		version: 1000, changed: make(chan struct{}), objects: map[string]map[string]Object{}, changes: map[string][]change{},
		refused: map[string]*apierrors.StatusError{}, requests: map[string]int{}, accepted: map[string]int{},
	}
	for resource := range lists {
		s.Offer(resource)
	}
	return s
}

// Kubeconfig returns one that leads to a server at this host and port.
func Kubeconfig(address string) []byte {
	return fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "http://%s"}}]}`, address)
}

// NoStreams has the server refuse to stream lists, as before Kubernetes 1.32.
func (s *Server) NoStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noStreams = true
}

// Offer has the server serve a resource, as "pods" or
// "security.istio.io/v1/peerauthentications".
func (s *Server) Offer(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]Object{}
	}
}

// Drop is what happens to a kind whose CustomResourceDefinition another hand takes.
func (s *Server) Drop(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, resource)
	delete(s.changes, resource)
	s.announce()
}

// Refuse answers requests for a resource, or a write such as "create events", with err
// until it is nil.
func (s *Server) Refuse(resource string, err *apierrors.StatusError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[resource] = err
	s.announce()
}

// announce wakes all watches; mu is held.
func (s *Server) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Set makes objects, or changes them.
func (s *Server) Set(objects ...Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		s.put(o)
	}
	s.announce()
}

// Delete takes an object away.
func (s *Server) Delete(o Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource := resourceOf(o)
	s.version++
	delete(s.objects[resource], keyOf(o))
	o = o.DeepCopyObject().(Object)
	o.SetResourceVersion(strconv.Itoa(s.version))
	s.changes[resource] = append(s.changes[resource], change{s.version, watch.Deleted, o})
	s.announce()
}

// Forget is what compaction does: older versions have expired.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = s.version
	clear(s.changes)
}

// Restore is what a restore of etcd does: all is as it was in these objects, at an
// older version.
func (s *Server) Restore(version int, objects ...Object) {
	s.mu.Lock()
	for resource := range s.objects {
		s.objects[resource] = map[string]Object{}
	}
	clear(s.changes)
	s.version, s.oldest = version, 0
	s.restored++ // ends all watches, as at their timeout
	s.mu.Unlock()
	s.Set(objects...)
}

// Asked returns how often something was: to "list", "watch" or "stream" a resource.
func (s *Server) Asked(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[what]
}

// AnsweredIn returns how many answers were of a media type.
func (s *Server) AnsweredIn(mediaType string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted[mediaType]
}

func keyOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func resourceOf(o runtime.Object) string {
	if u, ok := o.(*unstructured.Unstructured); ok {
		plural, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		return plural.Group + "/" + plural.Version + "/" + plural.Resource
	}
	name := strings.ToLower(fmt.Sprintf("%T", o))
	name = name[strings.LastIndex(name, ".")+1:] + "s"
	return strings.Replace(name, "classs", "classes", 1)
}

// ServeHTTP answers GET /api/v1/pods and the like, and writes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
		s.review(w, r)
		return
	}
	if r.Method != http.MethodGet {
		s.write(w, r)
		return
	}
	t := parseTarget(r.URL.Path)
	resource := t.resource
	q := r.URL.Query()
	verb := "list"
	if t.name != "" {
		verb = "get"
	} else if q.Get("watch") != "" {
		if verb = "watch"; q.Get("sendInitialEvents") == "true" {
			verb = "stream"
		}
	}
	a := &answer{w: w, resource: resource}
	a.group, _ = schema.ParseGroupVersion(groupOf(r.URL.Path))
	a.protobuf = strings.Contains(r.Header.Get("Accept"), "protobuf")

	s.mu.Lock()
	s.requests[verb+" "+resource]++
	s.accepted[a.mediaType()]++
	_, known := s.objects[resource]
	refused, version, streams := s.refused[resource], s.version, !s.noStreams
	s.mu.Unlock()
	seen, _ := strconv.Atoi(q.Get("resourceVersion"))
	switch {
	case !known:
		a.fail(apierrors.NewNotFound(schema.GroupResource{}, "page"))
	case refused != nil:
		a.fail(refused)
	case verb == "stream" && !streams:
		a.fail(apierrors.NewInvalid(schema.GroupKind{}, "sendInitialEvents", nil))
	case verb == "get":
		s.get(a, t)
	case verb != "watch" && seen > version:
		a.fail(tooLarge(seen, version))
	case verb == "list":
		limit, _ := strconv.Atoi(q.Get("limit"))
		begin, _ := strconv.Atoi(q.Get("continue"))
		s.list(a, begin, limit)
	case verb == "stream":
		s.watch(a, r, s.initial(a), true)
	default:
		s.watch(a, r, seen, false)
	}
}

func (s *Server) get(a *answer, t target) {
	s.mu.Lock()
	o, known := s.objects[t.resource][t.namespace+"/"+t.name]
	s.mu.Unlock()
	if !known {
		a.fail(apierrors.NewNotFound(schema.GroupResource{Resource: t.resource}, t.name))
		return
	}
	a.w.Header().Set("Content-Type", a.mediaType())
	a.w.Write(a.encode(o))
}

func tooLarge(seen, version int) *apierrors.StatusError {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", seen, version), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

// list answers with limit objects from begin on, 0 for all, and where the next begin.
func (s *Server) list(a *answer, begin, limit int) {
	s.mu.Lock()
	objects := sorted(s.objects[a.resource])
	version := strconv.Itoa(s.version)
	s.mu.Unlock()
	objects = objects[min(begin, len(objects)):]
	next := ""
	if limit > 0 && limit < len(objects) {
		objects, next = objects[:limit], strconv.Itoa(begin+limit)
	}
	a.list(objects, version, next)
}

func sorted(objects map[string]Object) []Object {
	var out []Object
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		out = append(out, objects[key])
	}
	return out
}

// initial streams a list, and its end; it returns the version.
func (s *Server) initial(a *answer) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range sorted(s.objects[a.resource]) {
		a.event(watch.Added, o)
	}
	end := a.blank()
	end.SetResourceVersion(strconv.Itoa(s.version))
	end.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	a.event(watch.Bookmark, end)
	return s.version
}

// watch tells changes after a version until the client or the server goes.
func (s *Server) watch(a *answer, r *http.Request, seen int, begun bool) {
	if !begun {
		a.begin()
	}
	s.mu.Lock()
	restored := s.restored
	s.mu.Unlock()
	for {
		s.mu.Lock()
		_, known := s.objects[a.resource]
		known = known && s.restored == restored
		if seen < s.oldest {
			a.event(watch.Error, statusOf(apierrors.NewResourceExpired("too old resource version")))
			known = false
		}
		for _, c := range s.changes[a.resource] {
			if c.version > seen {
				seen = c.version
				a.event(c.kind, c.object)
			}
		}
		changed, refused := s.changed, s.refused[a.resource]
		s.mu.Unlock()
		if !known || refused != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func statusOf(err *apierrors.StatusError) runtime.Object {
	s := err.Status()
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	return &s
}

// answer writes one response.
type answer struct {
	w        http.ResponseWriter
	group    schema.GroupVersion
	resource string
	protobuf bool
	frames   io.Writer
}

func (a *answer) mediaType() string {
	if a.protobuf {
		return runtime.ContentTypeProtobuf
	}
	return runtime.ContentTypeJSON
}

func (a *answer) encode(o runtime.Object) []byte {
	if !a.protobuf {
		if _, custom := o.(runtime.Unstructured); !custom {
			o = withKind(o)
		}
		data, _ := json.Marshal(o)
		return data
	}
	var data strings.Builder
	if err := protobuf.NewSerializer(scheme, scheme).Encode(withKind(o), &data); err != nil {
		panic(err)
	}
	return []byte(data.String())
}

// withKind fills in what the API server always sends.
func withKind(o runtime.Object) runtime.Object {
	kinds, _, err := scheme.ObjectKinds(o)
	if err != nil {
		panic(err)
	}
	o = o.DeepCopyObject()
	o.GetObjectKind().SetGroupVersionKind(kinds[0])
	return o
}

func (a *answer) fail(err *apierrors.StatusError) {
	a.w.Header().Set("Content-Type", a.mediaType())
	a.w.WriteHeader(int(err.ErrStatus.Code))
	a.w.Write(a.encode(statusOf(err)))
}

func (a *answer) begin() {
	a.w.Header().Set("Content-Type", a.mediaType()+";stream=watch")
	a.w.WriteHeader(http.StatusOK)
	a.frames = a.w
	if a.protobuf {
		a.frames = protobuf.LengthDelimitedFramer.NewFrameWriter(a.w)
	}
	a.w.(http.Flusher).Flush()
}

func (a *answer) event(kind watch.EventType, o runtime.Object) {
	if a.frames == nil {
		a.begin()
	}
	e := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: a.encode(o)}}
	var data []byte
	if a.protobuf {
		data, _ = e.Marshal()
	} else {
		data, _ = json.Marshal(e)
	}
	a.frames.Write(data)
	a.w.(http.Flusher).Flush()
}
