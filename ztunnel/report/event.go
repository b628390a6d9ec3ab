// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

const (
	component  = "culvert-ztunnel"
	maxMessage = 1000 // bytes; the API server takes 1024
	maxAlike   = 1024 // Events whose repetitions are counted
)

// event is one to be written.
type event struct {
	change
	object corev1.ObjectReference
}

func podReference(p kube.OwnPod) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.ObjectUID)}
}

// nodeReference has the name for a UID, as the kubelet's Events do: kubectl describe
// looks for that.
func nodeReference(name string) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: types.UID(name)}
}

// event writes an Event. One that was written before is counted up instead: its name is
// made of what it says, so that a ztunnel finds those of an earlier one, too.
func (w *writer) event(ctx context.Context, now time.Time, e event) {
	if !w.may(now) {
		w.count(eventLost)
		return
	}
	if !w.left.Spend(writes) {
		w.count(eventDropped)
		return
	}
	err := w.repeat(ctx, now, e)
	if apierrors.IsNotFound(err) {
		err = w.first(ctx, now, e)
	}
	if w.heard(now, "an Event", err); err != nil {
		w.count(eventLost)
		return
	}
	w.count(eventWritten)
}

// repeat counts up an Event that is known; others are not found.
func (w *writer) repeat(ctx context.Context, now time.Time, e event) error {
	count := w.alike[e.name()]
	if count == 0 {
		return apierrors.NewNotFound(corev1.Resource("events"), e.name())
	}
	err := w.touch(ctx, now, e, count+1)
	if err == nil {
		w.alike[e.name()]++
	}
	return err
}

// first makes an Event, unless an earlier ztunnel has made it.
func (w *writer) first(ctx context.Context, now time.Time, e event) error {
	body, err := json.Marshal(e.build(w.node, now))
	if err != nil {
		return err
	}
	err = w.client.Post().Namespace(e.namespace()).Resource("events").Body(body).Do(ctx).Error()
	if apierrors.IsAlreadyExists(err) {
		err = w.touch(ctx, now, e, 0)
	}
	if err == nil {
		if len(w.alike) >= maxAlike {
			clear(w.alike)
		}
		w.alike[e.name()] = 1
	}
	return err
}

// touch says that an Event happened again; a count of 0 is not known.
func (w *writer) touch(ctx context.Context, now time.Time, e event, count int32) error {
	changes := map[string]any{"lastTimestamp": metav1.NewTime(now)}
	if count > 0 {
		changes["count"] = count
	}
	body, err := json.Marshal(changes)
	if err != nil {
		return err
	}
	return w.client.Patch(types.MergePatchType).Namespace(e.namespace()).Resource("events").Name(e.name()).Body(body).Do(ctx).Error()
}

// namespace is where the API server wants it.
func (e event) namespace() string {
	if e.object.Namespace == "" {
		return metav1.NamespaceDefault
	}
	return e.object.Namespace
}

// name is a DNS name of at most 253 bytes.
func (e event) name() string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s", e.object.UID, e.reason, e.message)
	return fmt.Sprintf("%s.%016x", strings.TrimRight(fmt.Sprintf("%.200s", e.object.Name), ".-"), h.Sum64())
}

func (e event) build(node string, now time.Time) *corev1.Event {
	kind := corev1.EventTypeNormal
	if e.warning {
		kind = corev1.EventTypeWarning
	}
	at := metav1.NewTime(now)
	return &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: e.namespace(), Name: e.name()},
		InvolvedObject: e.object,
		Type:           kind, Reason: e.reason, Message: short(e.message, maxMessage),
		Source:              corev1.EventSource{Component: component, Host: node},
		ReportingController: component, ReportingInstance: node,
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}
