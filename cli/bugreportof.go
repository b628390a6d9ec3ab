// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// page is what a program answers at one of its ports.
type page struct {
	name string
	port int
	path string
}

var (
	ztunnelPages = []page{
		{"config_dump.json", fleet.ZtunnelAdmin, "/config_dump"}, {"log-level.txt", fleet.ZtunnelAdmin, "/logging"},
		{"metrics.txt", fleet.ZtunnelMetrics, "/metrics"}, {"ready.txt", fleet.ZtunnelReady, "/healthz/ready"},
	}
	caPages = []page{
		{"config_dump.json", fleet.CAAdmin, "/config_dump"}, {"metrics.txt", fleet.CAMetrics, "/metrics"}, {"ready.txt", fleet.CAMetrics, "/readyz?verbose"},
	}
)

func (r *reporting) ofNodes(ctx context.Context) (tasks []task) {
	targets, err := r.source.Ztunnels(ctx)
	if err != nil || len(targets) == 0 {
		if err == nil {
			err = fmt.Errorf("no ztunnel was found")
		}
		r.archive.Miss("nodes", err)
	}
	for _, t := range targets {
		if len(r.nodes) > 0 && !slices.Contains(r.nodes, t.Name) {
			continue
		}
		dir := "nodes/" + inside(t.Name) + "/"
		if t.Pod != "" {
			dir += inside(t.Pod) + "/" // two, while one replaces the other
		}
		tasks = append(tasks, task{t.Name, func(ctx context.Context) {
			if r.pages(ctx, dir, t, ztunnelPages) {
				r.events(ctx, dir+"events.jsonl", t)
			}
			r.logs(ctx, dir, t.Pod, "ztunnel")
		}})
	}
	for _, name := range r.nodes {
		if !slices.ContainsFunc(targets, func(t fleet.Target) bool { return t.Name == name }) {
			r.archive.Miss("nodes/"+inside(name), fmt.Errorf("no ztunnel was found on it"))
		}
	}
	return tasks
}

func (r *reporting) ofCAs(ctx context.Context) (tasks []task) {
	targets, err := r.source.CAs(ctx)
	if err != nil {
		r.archive.Miss("ca", err)
	}
	for _, t := range targets {
		dir := "ca/" + inside(t.Name) + "/"
		tasks = append(tasks, task{t.Name, func(ctx context.Context) {
			r.pages(ctx, dir, t, caPages)
			r.logs(ctx, dir, t.Pod, "culvert-identity")
		}})
	}
	return tasks
}

// pages adds what a program answers, and reports whether it answered at first: one that
// does not is not waited for again.
func (r *reporting) pages(ctx context.Context, dir string, t fleet.Target, pages []page) bool {
	for i, p := range pages {
		text, err := t.Fetch(ctx, p.port, p.path)
		r.put(ctx, dir+p.name, text, err)
		if i == 0 && err != nil {
			for _, p := range pages[1:] {
				r.archive.Miss(dir+p.name, fmt.Errorf("not asked: %s did not come", pages[0].name))
			}
			return false
		}
	}
	return true
}

// events adds what a node tells for a while.
func (r *reporting) events(ctx context.Context, name string, t fleet.Target) {
	listening, stop := context.WithTimeout(ctx, time.Duration(r.listen))
	defer stop()
	var lines bytes.Buffer
	err := t.Listen(listening, func(e fleet.Event) {
		if lines.Len() < maxLog {
			lines.Write(append(e.Line, '\n'))
		}
	})
	if listening.Err() != nil {
		err = nil // it ends so if all is well
	}
	r.put(ctx, name, lines.Bytes(), err)
}

// logs adds the end of what a pod's container has logged, and of the one before it.
func (r *reporting) logs(ctx context.Context, dir, pod, container string) {
	if r.cluster == nil || pod == "" {
		return
	}
	namespace, name, _ := strings.Cut(pod, "/")
	text, err := r.cluster.API.Log(ctx, namespace, name, container, false, maxLog)
	r.put(ctx, dir+"log.txt", text, err)
	if text, err := r.cluster.API.Log(ctx, namespace, name, container, true, maxLog); err == nil { // most have not been restarted
		r.archive.Add(dir+"log-previous.txt", text, "")
	}
}

// ofKubernetes are the objects of the mesh's namespace. Secrets are none of them.
func (r *reporting) ofKubernetes() []task {
	if r.cluster == nil {
		return nil
	}
	api, namespace := r.cluster.API, r.cluster.Namespace
	return []task{
		{"pods", func(ctx context.Context) {
			pods, err := api.Pods(ctx, namespace, "")
			r.putJSON(ctx, "kubernetes/pods.json", withoutValues(pods), err)
		}},
		{"events", func(ctx context.Context) {
			var list corev1.EventList
			err := api.Object(ctx, kubeapi.Path(namespace, "events", ""), &list)
			r.putJSON(ctx, "kubernetes/events.json", list.Items, err)
		}},
		{"version", func(ctx context.Context) {
			version, err := api.Version(ctx)
			r.putJSON(ctx, "kubernetes/version.json", version, err)
		}},
	}
}

// withoutValues are pods without what people put secrets into: values of variables, and
// annotations, one of which has the whole object.
func withoutValues(pods []corev1.Pod) []corev1.Pod {
	for i := range pods {
		pods[i].Annotations, pods[i].ManagedFields = nil, nil
		spec := &pods[i].Spec
		for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for j := range containers {
				withoutSecrets(containers[j].Env, containers[j].LivenessProbe, containers[j].ReadinessProbe, containers[j].StartupProbe)
			}
		}
		for j := range spec.EphemeralContainers {
			withoutSecrets(spec.EphemeralContainers[j].Env)
		}
	}
	return pods
}

// withoutSecrets hides what a container's environment and its probes' headers say.
func withoutSecrets(env []corev1.EnvVar, probes ...*corev1.Probe) {
	const hidden = "(not shown)"
	for i := range env {
		if env[i].Value != "" {
			env[i].Value = hidden
		}
	}
	for _, p := range probes {
		if p == nil || p.HTTPGet == nil {
			continue
		}
		for i := range p.HTTPGet.HTTPHeaders {
			p.HTTPGet.HTTPHeaders[i].Value = hidden
		}
	}
}
