// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

const (
	answerWithin = 5 * time.Second
	// An API server that does not take a request is left alone for firstPause, then
	// for twice as long each time, up to mostPause.
	firstPause = 2 * time.Second
	mostPause  = time.Minute
)

// writes is what the node may have written.
var writes = rate.Limit{PerSecond: 10, Burst: 100}

// What is counted.
const (
	eventWritten = iota
	eventDropped // over a rate
	eventLost    // the API server is away, or refused it
	statusWritten
	statusFailed
	counts
)

// writer makes requests, one after the other.
type writer struct {
	client rest.Interface
	node   string
	log    *slog.Logger
	left   rate.Left
	alike  map[string]int32 // how often an Event of that name was written

	pausedUntil time.Time
	pause       time.Duration
	refused     map[string]time.Time // when the log said so of something

	mu      sync.Mutex // guards counted
	counted [counts]uint64
}

func newWriter(kubeconfig, node string, log *slog.Logger) (*writer, error) {
	config, err := kube.ClientConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.ContentType = runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.Timeout = answerWithin
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", config.Host, err)
	}
	return &writer{client: client, node: node, log: log, alike: map[string]int32{}, refused: map[string]time.Time{}}, nil
}

// status writes how a pod is.
func (w *writer) status(ctx context.Context, now time.Time, p kube.OwnPod, text string) bool {
	return w.annotate(ctx, now, p, source.StatusAnnotation, text)
}

// annotate writes an annotation of a pod, and reports whether it did; only while may says
// yes. Nobody else's change is lost, and a pod of the same name that came later is not
// meant.
func (w *writer) annotate(ctx context.Context, now time.Time, p kube.OwnPod, key, text string) bool {
	if !w.left.Spend(writes) {
		return false
	}
	annotations := map[string]any{key: text}
	if text == "" {
		annotations[key] = nil
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.ObjectUID, "annotations": annotations}})
	if err == nil {
		err = w.client.Patch(types.MergePatchType).Namespace(p.Namespace).Resource("pods").Name(p.Name).SubResource("status").Body(body).Do(ctx).Error()
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return true // it has gone: the watch will tell
	}
	if w.heard(now, "the status of a pod", err); err != nil {
		w.count(statusFailed)
		return false
	}
	w.count(statusWritten)
	return true
}

// untaint takes a taint off the Node, and reports whether it did: not if it is no longer
// at its place, so that no other goes.
func (w *writer) untaint(ctx context.Context, now time.Time, i int, taint corev1.Taint) bool {
	if !w.may(now) {
		return false
	}
	path := fmt.Sprintf("/spec/taints/%d", i)
	body, err := json.Marshal([]map[string]any{{"op": "test", "path": path, "value": taint}, {"op": "remove", "path": path}})
	if err == nil {
		err = w.client.Patch(types.JSONPatchType).Resource("nodes").Name(w.node).Body(body).Do(ctx).Error()
	}
	if apierrors.IsInvalid(err) {
		return false // the watch is late
	}
	w.heard(now, "the taint of the node", err)
	return err == nil
}

// may reports whether the API server may be asked.
func (w *writer) may(now time.Time) bool { return !now.Before(w.pausedUntil) }

// heard notes how a request ended. What concerns one object does not keep others from
// being written.
func (w *writer) heard(now time.Time, what string, err error) {
	switch {
	case err == nil || refusal(err):
		if w.pause > 0 {
			w.log.Info("the API server takes again what is told of this node and its pods")
		}
		w.pause = 0
	default:
		if w.pause == 0 {
			w.log.Warn("the API server does not take what is told of this node and its pods", logWhat, what, logError, err)
		}
		w.pause = min(max(firstPause, 2*w.pause), mostPause)
		w.pausedUntil = now.Add(w.pause)
	}
	if refusal(err) && now.Sub(w.refused[what]) >= mostPause {
		w.refused[what] = now
		w.log.Warn("the API server refuses what is told of this node and its pods", logWhat, what, logError, err)
	}
}

// refusal reports that the API server understood a request and does not want it.
func refusal(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusUnauthorized
}

func (w *writer) count(what int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counted[what]++
}

func (w *writer) stats() (events, statuses map[string]uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return map[string]uint64{"written": w.counted[eventWritten], "rate": w.counted[eventDropped], "api": w.counted[eventLost]},
		map[string]uint64{"written": w.counted[statusWritten], "failed": w.counted[statusFailed]}
}
