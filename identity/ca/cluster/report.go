// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/culvert-mesh/culvert/identity/ca"
)

const (
	component  = "culvert-identity"
	maxMessage = 1000 // bytes; the API server takes 1024
	maxAlike   = 256  // Events whose repetitions are counted
)

var eventsResource = schema.GroupVersionResource{Version: "v1", Resource: "events"}

// events writes Kubernetes Events about one object. Only Publisher.report calls it.
type events struct {
	client dynamic.Interface
	about  object
	alike  map[string]int64 // how often this replica has told each, by name
}

// Tell has an Event be written about the Secret, or about the ConfigMap if there is no
// Secret. It does not wait: Events that pile up are lost.
func (p *Publisher) Tell(e ca.Event) {
	select {
	case p.told <- e:
	default:
		p.count(eventLost)
	}
}

// report writes what Tell was given, until ctx ends.
func (p *Publisher) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-p.told:
			timed, stop := context.WithTimeout(ctx, lookFor)
			err := p.events.write(timed, e)
			stop()
			if err != nil && ctx.Err() == nil {
				p.count(eventLost)
				p.log.Warn("a Kubernetes Event is lost", logReason, string(e.Reason), logError, err)
			}
		}
	}
}

// write makes an Event. If there is one of the name, which says the same, it has happened
// again: to this replica, or to another at the same time.
func (w *events) write(ctx context.Context, e ca.Event) error {
	event := w.build(e, metav1.NewTime(time.Now()))
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(event)
	if err != nil {
		return err
	}
	if w.alike == nil || len(w.alike) >= maxAlike {
		w.alike = map[string]int64{}
	}
	_, err = w.resource().Create(ctx, &unstructured.Unstructured{Object: u}, metav1.CreateOptions{})
	if err == nil { // the API server forgets Events after an hour
		w.alike[event.Name] = 1
	}
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return w.repeat(ctx, event)
}

// repeat dates an Event anew, and counts it as often as the replica has told it that told
// it most often: what happens to the CA once happens to each of its replicas.
func (w *events) repeat(ctx context.Context, event *corev1.Event) error {
	is, err := w.change(ctx, event.Name, map[string]any{"lastTimestamp": event.LastTimestamp})
	if err != nil {
		return err
	}
	w.alike[event.Name]++
	counted, _, err := unstructured.NestedInt64(is.Object, "count")
	if err != nil || counted >= w.alike[event.Name] {
		return err
	}
	_, err = w.change(ctx, event.Name, map[string]any{"count": w.alike[event.Name]})
	return err
}

func (w *events) change(ctx context.Context, name string, changes map[string]any) (*unstructured.Unstructured, error) {
	body, err := json.Marshal(changes)
	if err != nil {
		return nil, err
	}
	return w.resource().Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{})
}

func (w *events) resource() dynamic.ResourceInterface {
	return w.client.Resource(eventsResource).Namespace(w.about.namespace)
}

func (w *events) build(e ca.Event, at metav1.Time) *corev1.Event {
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	name := fnv.New64a()
	fmt.Fprintf(name, "%s\x00%s", e.Reason, e.Message)
	return &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: w.about.namespace, Name: fmt.Sprintf("%s.%016x", w.about.name, name.Sum64())},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: w.about.kind, Namespace: w.about.namespace, Name: w.about.name},
		Type:           kind, Reason: string(e.Reason), Message: fmt.Sprintf("%.*s", maxMessage, e.Message),
		Source:              corev1.EventSource{Component: component},
		ReportingController: component, ReportingInstance: component,
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}
