// SPDX-License-Identifier: Apache-2.0

package clitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/streaming/pkg/httpstream"
)

// Kubernetes is an API server that has what it was given, and forwards ports of pods to
// addresses of this machine, in SPDY as before WebSockets.
type Kubernetes struct {
	mu        sync.Mutex // guards what follows
	objects   map[string]any
	versions  map[string]int // of objects, by their paths: each change counts
	pods      []corev1.Pod
	loopbacks map[string]map[string]string // by namespace/name of a pod: addresses by port
	commands  map[string]func([]string) (stdout, stderr string)
	Logs      map[string]string // of pods, by namespace/name
	Denied    map[string]bool   // rights that the caller lacks, as "create secrets"
	Forwards  int               // that were begun
}

// Pod adds a pod that runs on a node, with what its loopback's ports lead to, and the
// arguments of its program.
func (k *Kubernetes) Pod(namespace, name, app, node string, ready bool, ports map[string]string, args ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/name": app}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: app, Args: args}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if ready {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	k.pods = append(k.pods, pod)
	if k.loopbacks == nil {
		k.loopbacks = map[string]map[string]string{}
	}
	k.loopbacks[namespace+"/"+name] = ports
}

// Gone takes a pod away. What was forwarded to it stays open, as with a kubelet.
func (k *Kubernetes) Gone(namespace, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods = slices.DeleteFunc(k.pods, func(p corev1.Pod) bool { return p.Namespace == namespace && p.Name == name })
}

// Put has an object at a path, as /api/v1/namespaces/NS/secrets/NAME.
func (k *Kubernetes) Put(path string, object any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(path, object)
}

// put numbers what it keeps. The caller holds mu.
func (k *Kubernetes) put(path string, object any) {
	if k.objects == nil {
		k.objects, k.versions = map[string]any{}, map[string]int{}
	}
	k.versions[path]++
	k.objects[path] = object
}

// Delete takes an object away.
func (k *Kubernetes) Delete(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.objects, path)
}

// Get returns what is at a path, or nil.
func (k *Kubernetes) Get(path string) any {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.objects[path]
}

// Kubeconfig serves until the test ends, and returns the path of a kubeconfig.
func (k *Kubernetes) Kubeconfig(t testing.TB, dir string) string { return Kubeconfig(t, k, dir) }

// Kubeconfig serves h until the test ends, and returns the path of a kubeconfig.
func Kubeconfig(t testing.TB, h http.Handler, dir string) string {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":%q}}]}`, server.URL)
	path := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ServeHTTP is part of http.Handler.
func (k *Kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews"):
		k.review(w, r)
	case len(parts) == 7 && parts[6] == "portforward":
		k.forward(w, r, parts[3]+"/"+parts[5])
	case len(parts) == 7 && parts[6] == "exec":
		k.exec(w, r, parts[3]+"/"+parts[5])
	case len(parts) == 7 && parts[6] == "log":
		k.log(w, r, parts[3]+"/"+parts[5])
	case r.Method == http.MethodGet && len(parts) == 5 && parts[4] == "pods":
		k.list(w, parts[3], r.URL.Query().Get("labelSelector"))
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/pods":
		k.list(w, "", r.URL.Query().Get("labelSelector"))
	case r.Method == http.MethodGet:
		k.read(w, r.URL.Path)
	default:
		k.write(w, r)
	}
}

func (k *Kubernetes) read(w http.ResponseWriter, path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if object := k.objects[path]; object != nil {
		reply(w, http.StatusOK, versioned(object, k.versions[path]))
		return
	}
	refuse(w, apierrors.NewNotFound(schema.GroupResource{Resource: "objects"}, path))
}

func (k *Kubernetes) log(w http.ResponseWriter, r *http.Request, pod string) {
	k.mu.Lock()
	text, logs := k.Logs[pod]
	k.mu.Unlock()
	if !logs || r.URL.Query().Get("previous") != "" {
		refuse(w, apierrors.NewBadRequest("there is no such container"))
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, text) // a client that went is no matter
}

func (k *Kubernetes) list(w http.ResponseWriter, namespace, selector string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Denied["list pods"] {
		refuse(w, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("the user cannot list pods")))
		return
	}
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	_, app, _ := strings.Cut(selector, "=")
	for _, pod := range k.pods {
		if (namespace == "" || pod.Namespace == namespace) && (selector == "" || pod.Labels["app.kubernetes.io/name"] == app) {
			list.Items = append(list.Items, pod)
		}
	}
	reply(w, http.StatusOK, list)
}

// versioned is an object with its version.
func versioned(object any, version int) map[string]any {
	text, err := json.Marshal(object)
	var all map[string]any
	if err := errors.Join(err, json.Unmarshal(text, &all)); err != nil {
		panic(err)
	}
	meta, _ := all["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		all["metadata"] = meta
	}
	meta["resourceVersion"] = strconv.Itoa(version)
	return all
}

// write takes an object: POST a new one, PUT one of the version that is there.
func (k *Kubernetes) write(w http.ResponseWriter, r *http.Request) {
	var object map[string]any
	if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	meta, _ := object["metadata"].(map[string]any)
	k.mu.Lock()
	defer k.mu.Unlock()
	path := r.URL.Path
	if r.Method == http.MethodPost {
		path += "/" + fmt.Sprint(meta["name"])
	}
	version, is := meta["resourceVersion"].(string)
	switch there := k.objects[path] != nil; {
	case r.Method == http.MethodPost && there:
		refuse(w, apierrors.NewAlreadyExists(schema.GroupResource{}, path))
		return
	case r.Method == http.MethodPut && !there:
		refuse(w, apierrors.NewNotFound(schema.GroupResource{}, path))
		return
	case r.Method == http.MethodPut && is && version != strconv.Itoa(k.versions[path]):
		refuse(w, apierrors.NewConflict(schema.GroupResource{}, path, errors.New("it is of another version")))
		return
	}
	k.put(path, object)
	reply(w, http.StatusOK, versioned(object, k.versions[path]))
}

func (k *Kubernetes) review(w http.ResponseWriter, r *http.Request) {
	var review authorizationv1.SelfSubjectAccessReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	right := review.Spec.ResourceAttributes
	review.Status.Allowed = !k.Denied[right.Verb+" "+right.Resource]
	reply(w, http.StatusCreated, review)
}

func reply(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object) // a client that went is no matter
}

func refuse(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.APIVersion, status.Kind = "v1", "Status"
	reply(w, int(status.Code), status)
}

// forward is what the kubelet of the pod's node does.
func (k *Kubernetes) forward(w http.ResponseWriter, r *http.Request, pod string) {
	k.mu.Lock()
	ports := k.loopbacks[pod]
	k.Forwards++
	k.mu.Unlock()
	conn, byType := upgrade(w, r, "portforward.k8s.io", 2)
	if conn == nil {
		return
	}
	defer conn.Close()
	carry(byType[corev1.StreamTypeData], byType[corev1.StreamTypeError], ports)
	<-conn.CloseChan()
}

func carry(data, errs httpstream.Stream, ports map[string]string) {
	port := data.Headers().Get(corev1.PortHeader)
	far, err := net.Dial("tcp", ports[port])
	if err != nil || ports[port] == "" {
		fmt.Fprintf(errs, "failed to execute portforward in network namespace: dial tcp4 127.0.0.1:%s: connect: connection refused", port)
		errs.Close()
		data.Close()
		return
	}
	defer far.Close()
	errs.Close()
	go func() {
		_, _ = io.Copy(far, data) // its end is that of the other direction
		far.Close()               // the client went
	}()
	_, _ = io.Copy(data, far)
	data.Close()
}
