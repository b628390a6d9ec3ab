// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// Labels of the pods of the mesh's programs, as deploy/chart gives them.
const (
	ztunnelPods = "app.kubernetes.io/name=ztunnel"
	caPods      = "app.kubernetes.io/name=culvert-identity"

	ztunnelContainer = "ztunnel"
)

// Cluster is a Source of programs on Kubernetes.
type Cluster struct {
	API       *kubeapi.API
	Namespace string // of the mesh's programs
}

// Ztunnels is part of Source.
func (c *Cluster) Ztunnels(ctx context.Context) ([]Target, error) {
	return c.targets(ctx, ztunnelPods, func(pod corev1.Pod) string { return cmp.Or(pod.Spec.NodeName, pod.Name) })
}

// CAs is part of Source.
func (c *Cluster) CAs(ctx context.Context) ([]Target, error) {
	return c.targets(ctx, caPods, func(pod corev1.Pod) string { return pod.Name })
}

// Homes are the namespaces that a CA of Culvert's is in, each once.
func (c *Cluster) Homes(ctx context.Context) (namespaces []string, err error) {
	pods, err := c.API.Pods(ctx, "", caPods)
	for _, pod := range pods {
		namespaces = append(namespaces, pod.Namespace)
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces), err
}

func (c *Cluster) targets(ctx context.Context, labels string, name func(corev1.Pod) string) ([]Target, error) {
	pods, err := c.API.Pods(ctx, c.Namespace, labels)
	if err != nil {
		return nil, fmt.Errorf("list pods of %s in namespace %s: %w", labels, c.Namespace, err)
	}
	var all []Target
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		all = append(all, Target{
			Name: name(pod), Pod: pod.Namespace + "/" + pod.Name, Ready: Ready(pod),
			dial: func(ctx context.Context, port int) (net.Conn, error) {
				if pod.Status.Phase != corev1.PodRunning {
					return nil, fmt.Errorf("pod %s is %s", pod.Name, pod.Status.Phase)
				}
				return forward(ctx, c.API, pod.Namespace, pod.Name, port)
			},
			renew: func(ctx context.Context, identities []string) ([]byte, error) {
				return c.run(ctx, pod, renewArgs(arguments(pod), identities))
			},
			level: func(ctx context.Context, level string) ([]byte, error) {
				return c.run(ctx, pod, levelArgs(arguments(pod), level))
			},
			verify: func(ctx context.Context, query url.Values) ([]byte, error) {
				return c.run(ctx, pod, verifyArgs(arguments(pod), query))
			},
			probe: func(ctx context.Context, q Question) ([]byte, error) {
				if pod.Status.Phase != corev1.PodRunning {
					return nil, fmt.Errorf("pod %s is %s", pod.Name, pod.Status.Phase)
				}
				return Exec(ctx, c.API, pod.Namespace, pod.Name, ztunnelContainer, q.args(arguments(pod)))
			},
		})
	}
	slices.SortFunc(all, func(a, b Target) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pod, b.Pod)) })
	return all, nil
}

// run runs a command in the container of a pod's ztunnel.
func (c *Cluster) run(ctx context.Context, pod corev1.Pod, command []string) ([]byte, error) {
	if pod.Status.Phase != corev1.PodRunning {
		return nil, fmt.Errorf("pod %s is %s", pod.Name, pod.Status.Phase)
	}
	return Exec(ctx, c.API, pod.Namespace, pod.Name, ztunnelContainer, command)
}

// arguments are those of ztunnel in its pod.
func arguments(pod corev1.Pod) []string {
	for _, container := range pod.Spec.Containers {
		if container.Name == ztunnelContainer {
			return container.Args
		}
	}
	return nil
}

// Ready reports whether a pod is.
func Ready(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
