// SPDX-License-Identifier: Apache-2.0

package source

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// services are the Services and what is behind them. One is built anew only if
// it or what is behind it has changed.
type services struct {
	selectors bool // Options.Selectors
	built     []workload.Service
	names     []Name // of the service at the same place
	entries   map[Name]*serviceEntry
	slices    map[Name]map[string]*endpointSlice // by service
	of        map[Name]Name                      // the service of an EndpointSlice
	changed   map[Name]bool
	// bySelector are services without an EndpointSlice, by namespace: who is
	// behind them depends on all pods there.
	bySelector map[string]map[Name]bool
}

type serviceEntry struct {
	at     int // its place in services.built
	object *corev1.Service
}

func newServices(selectors bool) services {
	return services{
		selectors: selectors,
		entries:   map[Name]*serviceEntry{}, slices: map[Name]map[string]*endpointSlice{}, of: map[Name]Name{},
		changed: map[Name]bool{}, bySelector: map[string]map[Name]bool{},
	}
}

func (s *services) set(name Name, o *corev1.Service) {
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		s.delete(name)
		return
	}
	e := s.entries[name]
	if e == nil {
		e = &serviceEntry{at: len(s.built)}
		s.entries[name] = e
		s.built, s.names = append(s.built, workload.Service{}), append(s.names, name)
	}
	e.object = o
	s.changed[name] = true
}

// delete lets the last service have the place of the one that goes.
func (s *services) delete(name Name) {
	e := s.entries[name]
	if e == nil {
		return
	}
	last := len(s.built) - 1
	s.built[e.at], s.names[e.at] = s.built[last], s.names[last]
	s.entries[s.names[e.at]].at = e.at
	s.built[last] = workload.Service{}
	s.built, s.names = s.built[:last], s.names[:last]
	delete(s.entries, name)
	delete(s.bySelector[name.Namespace], name)
}

func (s *services) setSlice(name Name, o *discoveryv1.EndpointSlice) {
	of := Name{name.Namespace, o.Labels[discoveryv1.LabelServiceName]}
	if former, known := s.of[name]; known && former != of {
		s.deleteSlice(name)
	}
	if of.Name == "" {
		return
	}
	if s.slices[of] == nil {
		s.slices[of] = map[string]*endpointSlice{}
	}
	s.slices[of][name.Name], s.of[name] = newSlice(o), of
	s.changed[of] = true
}

func (s *services) deleteSlice(name Name) {
	of, known := s.of[name]
	if !known {
		return
	}
	delete(s.of, name)
	if delete(s.slices[of], name.Name); len(s.slices[of]) == 0 {
		delete(s.slices, of)
	}
	s.changed[of] = true
}

// podChanged marks the services of the namespace that go by its pods.
func (s *services) podChanged(namespace string) {
	for name := range s.bySelector[namespace] {
		s.changed[name] = true
	}
}

// zoneChanged marks the services that go by pods: their hints name zones.
func (s *services) zoneChanged() {
	for namespace := range s.bySelector {
		s.podChanged(namespace)
	}
}

// build returns all services, and builds those that have changed.
func (s *services) build(pods *pods, where localities) []workload.Service {
	for name := range s.changed {
		if e := s.entries[name]; e != nil {
			s.built[e.at] = s.buildOne(name, e.object, pods, where)
		}
	}
	clear(s.changed)
	return slices.Clone(s.built)
}

func (s *services) buildOne(name Name, o *corev1.Service, pods *pods, where localities) workload.Service {
	behind := s.slices[name]
	bySelector := len(behind) == 0 && len(o.Spec.Selector) > 0
	switch {
	case !bySelector:
		delete(s.bySelector[name.Namespace], name)
	case s.bySelector[name.Namespace] == nil:
		s.bySelector[name.Namespace] = map[Name]bool{name: true}
	default:
		s.bySelector[name.Namespace][name] = true
	}
	built := newService(o, func(port corev1.ServicePort) []backend {
		if bySelector {
			return pods.fromPods(o, port, where)
		}
		return fromSlices(behind, port.Name)
	})
	if s.selectors {
		built.Selector = o.Spec.Selector
	}
	return built
}
