// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
)

// apiServer speaks list and watch as a Kubernetes API server does: in protobuf to
// whoever asks for it, with bookmarks, resource versions that expire or are too
// large, and streaming lists.
type apiServer struct {
	t       *testing.T
	address string
	http    *http.Server

	mu       sync.Mutex
	version  int
	restored int // how often
	oldest   int // changes up to this version are forgotten
	objects  map[string]map[string]object
	changes  map[string][]change
	changed  chan struct{} // closed by the next change
	refused  map[string]*apierrors.StatusError
	streams  bool           // lists may be streamed
	requests map[string]int // by "list pods" and the like
	accepted map[string]int // media types that watches were answered in
}

// object is what the server and its clients both have.
type object interface {
	runtime.Object
	metav1.Object
}

type change struct {
	version int
	kind    watch.EventType
	object  object
}

// served are the resources that the server has from the beginning.
var served = []string{"namespaces", "nodes", "pods", "services", "endpointslices", "runtimeclasses", "servicecidrs"}

func startServer(t *testing.T) *apiServer {
	s := &apiServer{
		t: t, address: ownAddr() + ":6443", version: 1000, changed: make(chan struct{}), streams: true, objects: map[string]map[string]object{}, changes: map[string][]change{},
		refused: map[string]*apierrors.StatusError{}, requests: map[string]int{}, accepted: map[string]int{},
	}
	for _, resource := range served {
		s.serve(resource)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// ownAddr is a loopback address at which no other test listens, even while we do not.
func ownAddr() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}

// start listens, at the same address as before.
func (s *apiServer) start() {
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.http = &http.Server{Handler: s}
	go s.http.Serve(ln)
}

// stop cuts every connection and refuses new ones.
func (s *apiServer) stop() { s.http.Close() }

// kubeconfig writes one that leads to the server.
func (s *apiServer) kubeconfig() string {
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "http://%s"}}]}`, s.address)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *apiServer) serve(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]object{}
	}
}

// drop is what happens to a kind whose CustomResourceDefinition another hand takes.
func (s *apiServer) drop(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, resource)
	delete(s.changes, resource)
	s.announce()
}

// refuse answers requests for a resource with err until it is nil.
func (s *apiServer) refuse(resource string, err *apierrors.StatusError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[resource] = err
	s.announce()
}

// announce wakes all watches; mu is held.
func (s *apiServer) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *apiServer) set(objects ...object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		resource := resourceOf(o)
		s.version++
		o = o.DeepCopyObject().(object)
		o.SetResourceVersion(strconv.Itoa(s.version))
		kind := watch.Modified
		if _, known := s.objects[resource][keyOf(o)]; !known {
			kind = watch.Added
		}
		s.objects[resource][keyOf(o)] = o
		s.changes[resource] = append(s.changes[resource], change{s.version, kind, o})
	}
	s.announce()
}

func (s *apiServer) delete(o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource := resourceOf(o)
	s.version++
	delete(s.objects[resource], keyOf(o))
	o = o.DeepCopyObject().(object)
	o.SetResourceVersion(strconv.Itoa(s.version))
	s.changes[resource] = append(s.changes[resource], change{s.version, watch.Deleted, o})
	s.announce()
}

// forget is what compaction does: older versions have expired.
func (s *apiServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = s.version
	clear(s.changes)
}

// restore is what a restore of etcd does: all is as it was in these objects, at an
// older version.
func (s *apiServer) restore(version int, objects ...object) {
	s.mu.Lock()
	for resource := range s.objects {
		s.objects[resource] = map[string]object{}
	}
	clear(s.changes)
	s.version, s.oldest = version, 0
	s.restored++ // ends all watches, as at their timeout
	s.mu.Unlock()
	s.set(objects...)
}

// asked returns how often something was.
func (s *apiServer) asked(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[what]
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

// ServeHTTP answers GET /api/v1/pods and the like.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	resource := parts[len(parts)-1]
	if strings.Contains(r.URL.Path, "security.istio.io") {
		resource = strings.Join(parts[len(parts)-3:], "/")
	}
	q := r.URL.Query()
	verb := "list"
	if q.Get("watch") != "" {
		if verb = "watch"; q.Get("sendInitialEvents") == "true" {
			verb = "stream"
		}
	}
	a := &answer{w: w, group: schema.GroupVersion{Version: parts[len(parts)-2]}, resource: resource}
	if parts[0] == "apis" {
		a.group.Group = parts[1]
	}
	a.protobuf = strings.Contains(r.Header.Get("Accept"), "protobuf")

	s.mu.Lock()
	s.requests[verb+" "+resource]++
	s.accepted[a.mediaType()]++
	_, known := s.objects[resource]
	refused, version, streams := s.refused[resource], s.version, s.streams
	s.mu.Unlock()
	seen, _ := strconv.Atoi(q.Get("resourceVersion"))
	switch {
	case !known:
		a.fail(apierrors.NewNotFound(schema.GroupResource{}, "page"))
	case refused != nil:
		a.fail(refused)
	case verb == "stream" && !streams:
		a.fail(apierrors.NewInvalid(schema.GroupKind{}, "sendInitialEvents", nil))
	case verb != "watch" && seen > version:
		a.fail(tooLarge(seen, version))
	case verb == "list":
		s.list(a, q.Get("limit") == "1")
	case verb == "stream":
		s.watch(a, r, s.initial(a), true)
	default:
		s.watch(a, r, seen, false)
	}
}

func tooLarge(seen, version int) *apierrors.StatusError {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", seen, version), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

func (s *apiServer) list(a *answer, one bool) {
	s.mu.Lock()
	objects := sorted(s.objects[a.resource])
	version := strconv.Itoa(s.version)
	s.mu.Unlock()
	if one && len(objects) > 1 {
		objects = objects[:1]
	}
	a.list(objects, version)
}

func sorted(objects map[string]object) []object {
	var out []object
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		out = append(out, objects[key])
	}
	return out
}

// initial streams a list, and its end; it returns the version.
func (s *apiServer) initial(a *answer) int {
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
func (s *apiServer) watch(a *answer, r *http.Request, seen int, begun bool) {
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
