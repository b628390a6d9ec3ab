// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// Own is what the API server shows of Options.Node and its pods, for whoever writes
// to them. It decides nothing about the mesh.
type Own struct {
	Pods   []OwnPod
	Taints []corev1.Taint // of the Node, in its order
}

// OwnPod is the object of one pod of the node.
type OwnPod struct {
	Namespace, Name string
	ObjectUID       string // of the object
	UID             string // by which the kubelet knows the pod: that of a workload
	Created         time.Time
	Deleting        bool   // somebody deleted the object, which is still there
	Ended           bool   // all its containers ended for good
	Ready           bool   // all its containers are ready, says the kubelet
	Status          string // what annotation culvert.dev/status says, whoever wrote that
	Features        string // likewise source.FeaturesAnnotation
	Wrong           string // what is not understood of its object or its Namespace's, as a label that means nothing

	labelled bool // its own label decides, and not its Namespace's
}

// Own returns what is known now.
func (s *Source) Own() Own {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := Own{Pods: slices.Collect(maps.Values(s.ownPods)), Taints: s.ownTaints}
	for i := range own.Pods {
		p := &own.Pods[i]
		if p.Wrong = s.wrong(source.KindPod, source.Name{Namespace: p.Namespace, Name: p.Name}); p.Wrong == "" && !p.labelled {
			if wrong := s.wrong(source.KindNamespace, source.Name{Name: p.Namespace}); strings.Contains(wrong, source.MeshLabel) {
				p.Wrong = wrong // what else is strange says nothing of the pod
			}
		}
	}
	return own
}

// wrong is what is wrong with an object; mu is held.
func (s *Source) wrong(kind source.Kind, name source.Name) string {
	for _, k := range s.kinds {
		if k.Kind == kind {
			return k.wrong[name]
		}
	}
	return ""
}

// noteOwn takes an object of the node itself or of one of its pods; mu is held.
func (s *Source) noteOwn(o source.Object) {
	switch o := o.(type) {
	case *corev1.Node:
		if o.Name == s.options.Node {
			s.ownTaints = o.Spec.Taints
		}
	case *corev1.Pod:
		name := source.Name{Namespace: o.Namespace, Name: o.Name}
		if delete(s.ownPods, name); o.Spec.NodeName == s.options.Node && s.options.Node != "" {
			s.ownPods[name] = ownPod(o)
		}
	}
}

func ownPod(o *corev1.Pod) OwnPod {
	uid, _ := source.KubeletUID(o)
	ready := slices.ContainsFunc(o.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	_, labelled := o.Labels[source.MeshLabel]
	return OwnPod{
		Namespace: o.Namespace, Name: o.Name, ObjectUID: string(o.UID), UID: uid,
		Created: o.CreationTimestamp.Time, Deleting: o.DeletionTimestamp != nil,
		Ended: o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed, Ready: ready,
		Status: o.Annotations[source.StatusAnnotation], Features: o.Annotations[source.FeaturesAnnotation], labelled: labelled,
	}
}

// forgetOwn takes the name of an object that is gone; mu is held.
func (s *Source) forgetOwn(kind source.Kind, name source.Name) {
	switch {
	case kind == source.KindPod:
		delete(s.ownPods, name)
	case kind == source.KindNode && name.Name == s.options.Node:
		s.ownTaints = nil
	}
}
