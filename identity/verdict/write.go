// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/culvert-mesh/culvert/rate"
)

const (
	component    = "culvert-identity"
	answerWithin = 5 * time.Second
	// An API server that does not answer is left alone for firstPause, then for twice as
	// long each time, up to mostPause. So long a refused object waits, too.
	firstPause = time.Second
	mostPause  = time.Minute
)

// writes is how many objects may be written.
var writes = rate.Limit{PerSecond: 20, Burst: 100}

var events = schema.GroupVersionResource{Version: "v1", Resource: "events"}

// write has each object that is due say what is to be said of it, until ctx ends.
func (t *term) write(ctx context.Context) {
	var left rate.Left
	pause := firstPause
	for ctx.Err() == nil {
		k, ok := t.due.take()
		if !ok {
			select {
			case <-ctx.Done():
			case <-t.due.more:
			}
			continue
		}
		for !left.Spend(writes) {
			if sleep(ctx, left.Wait(writes)); ctx.Err() != nil {
				return
			}
		}
		timed, stop := context.WithTimeout(ctx, answerWithin)
		err := t.settle(timed, k)
		stop()
		switch {
		case err == nil, apierrors.IsConflict(err): // of what changed meanwhile the watch tells
			pause = firstPause
		case refusal(err):
			t.refused(k, err)
			time.AfterFunc(mostPause, func() { t.due.add(k) })
		default:
			t.due.add(k)
			sleep(ctx, pause)
			pause = min(2*pause, mostPause)
		}
	}
}

// settle has one object say what is to be said of it. One that is gone needs nothing.
func (t *term) settle(ctx context.Context, k key) error {
	client := t.kinds[k.kind].client().Namespace(k.Namespace)
	u, err := client.Get(ctx, k.Name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	v, shown := t.look(k.kind, u)
	if shown {
		return nil
	}
	body, err := v.patch(u, time.Now())
	if err != nil {
		return err
	}
	if v.warn { // first, so that it is not lost between the two: a second one is refused, as it has its name
		if err := t.tell(ctx, k, u, v); err != nil && !refusal(err) {
			return err
		}
	}
	_, err = client.Patch(ctx, k.Name.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: component}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// tell makes a Warning Event of what is not understood, once for the object's generation.
func (t *term) tell(ctx context.Context, k key, u *unstructured.Unstructured, v verdict) error {
	name, now := fnv.New64a(), metav1.NewTime(time.Now())
	fmt.Fprintf(name, "%s\x00%d\x00%s", u.GetUID(), u.GetGeneration(), v.message)
	event := &corev1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: fmt.Sprintf("%s.%016x", strings.TrimRight(fmt.Sprintf("%.200s", k.Name.Name), ".-"), name.Sum64())},
		InvolvedObject: corev1.ObjectReference{APIVersion: u.GetAPIVersion(), Kind: string(k.kind), Namespace: k.Namespace, Name: k.Name.Name,
			UID: u.GetUID(), ResourceVersion: u.GetResourceVersion()},
		Type: corev1.EventTypeWarning, Reason: v.reason, Message: v.message, Source: corev1.EventSource{Component: component},
		ReportingController: component, ReportingInstance: t.lease.Self,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(event)
	if err == nil {
		_, err = t.client.Resource(events).Namespace(k.Namespace).Create(ctx, &unstructured.Unstructured{Object: o}, metav1.CreateOptions{})
	}
	return err
}

// refused says that the API server does not want what is written, once a minute.
func (t *term) refused(k key, err error) {
	if now := time.Now(); now.Sub(t.said) >= mostPause {
		t.said = now
		t.Log.Warn("the status of a policy is refused; it is tried again every minute", logObject, k.String(), logError, err)
	}
}

// refusal reports that an object, or the API server, which understood the request, does not
// take what is written.
func refusal(err error) bool {
	if errors.Is(err, errNoList) {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusUnauthorized
}
