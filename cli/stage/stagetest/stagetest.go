// SPDX-License-Identifier: Apache-2.0

// Package stagetest has an API server for tests of a stage.
package stagetest

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Server is an API server with namespaces, and pods of all of them, which Start makes run
// or fail as a kubelet would.
type Server struct {
	Start func(*corev1.Pod)
	// Drops has the creation of a namespace stay without an answer; nil: none does.
	Drops func(*corev1.Namespace) bool

	mu         sync.Mutex // guards what follows
	Namespaces map[string]corev1.Namespace
	Pods       map[string]corev1.Pod
	DaemonSets []appsv1.DaemonSet
}

// New returns one that has nothing yet.
func New(start func(*corev1.Pod)) *Server {
	return &Server{Start: start, Namespaces: map[string]corev1.Namespace{}, Pods: map[string]corev1.Pod{}}
}

// Left is how many namespaces there are. Unlike Namespaces it may be asked after a request
// that got no answer.
func (s *Server) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.Namespaces)
}

// ServeHTTP is part of http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")[2:]
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/daemonsets"):
		reply(w, appsv1.DaemonSetList{Items: s.DaemonSets})
	case len(parts) > 4: // exec: there is no kubelet
		refuse(w, apierrors.NewNotFound(schema.GroupResource{Resource: "pods/exec"}, parts[3]))
	case r.Method == "POST" && len(parts) == 1:
		var ns corev1.Namespace
		_ = json.Unmarshal(body, &ns) // a test sees it
		if _, there := s.Namespaces[ns.Name]; there {
			refuse(w, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "namespaces"}, ns.Name))
			return
		}
		s.Namespaces[ns.Name] = ns
		if s.Drops != nil && s.Drops(&ns) {
			panic(http.ErrAbortHandler)
		}
		reply(w, ns)
	case r.Method == "POST":
		var pod corev1.Pod
		_ = json.Unmarshal(body, &pod)
		s.Start(&pod)
		s.Pods[pod.Name] = pod
		reply(w, pod)
	case len(parts) == 2:
		ns, there := s.Namespaces[parts[1]]
		if !there {
			refuse(w, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, parts[1]))
			return
		}
		if r.Method == "DELETE" {
			delete(s.Namespaces, parts[1])
			maps.DeleteFunc(s.Pods, func(_ string, p corev1.Pod) bool { return p.Namespace == parts[1] })
		}
		reply(w, ns)
	default:
		var list corev1.PodList
		for _, pod := range s.Pods {
			if pod.Namespace == parts[1] || pod.Namespace == "" { // a test's own are in all
				list.Items = append(list.Items, pod)
			}
		}
		reply(w, list)
	}
}

func reply(w http.ResponseWriter, object any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object) // a client that went is no matter
}

func refuse(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.APIVersion, status.Kind = "v1", "Status"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

// InstallIstio has the DaemonSets of Istio's ambient mesh, with so many pods that are ready.
// Culvert's own ztunnel is there in any case.
func (s *Server) InstallIstio(ztunnels, agents int32) {
	for _, d := range []struct {
		namespace, name, app string
		ready                int32
	}{{"culvert-system", "ztunnel", "", 2}, {"istio-system", "ztunnel", "ztunnel", ztunnels}, {"istio-system", "istio-cni-node", "", agents}} {
		set := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: d.namespace, Name: d.name}, Status: appsv1.DaemonSetStatus{NumberReady: d.ready}}
		set.Spec.Template.Labels = map[string]string{"app": d.app}
		s.DaemonSets = append(s.DaemonSets, set)
	}
}

// Runs has a pod run, and be verified in the mesh if its label says so.
func Runs(pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.0.0." + string(rune('1'+len(pod.Name)%9)),
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if pod.Labels["culvert.dev/mesh"] == "enabled" {
		pod.Annotations = map[string]string{"culvert.dev/status": "verified"}
	}
}
