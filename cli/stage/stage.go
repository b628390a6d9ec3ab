// SPDX-License-Identifier: Apache-2.0

// Package stage makes pods between which a cluster is measured, and takes them away.
//
// All stand in a namespace of their own, which is deleted as a whole. If nobody deletes it,
// the pods end by themselves at a deadline.
package stage

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/cli/speed"
)

const (
	managedBy = "app.kubernetes.io/managed-by" // ours, on the namespaces
	runLabel  = "culvert.dev/bench-run"        // whose namespaces they are
	owner     = "culvert-bench"
	meshLabel = "culvert.dev/mesh"
	status    = "culvert.dev/status"

	// Container is that of each pod, whose image has Program.
	Container = "culvert"
	Program   = "/bin/culvert"
	port      = 7007

	beyond = 10 * time.Minute // that the pods may live longer than what is planned
)

// Node is one of the cluster's, and where its ztunnel's metrics are.
type Node struct{ Name, Address string }

// Stage is the pods of one measurement. All fields are required.
type Stage struct {
	API       *kubeapi.API
	Namespace string
	Image     string
	Nodes     []Node // the one of the clients, and another; or one alone
	Exec      func(ctx context.Context, namespace, pod, container string, command []string) ([]byte, error)
	Costs     bool          // ask ztunnels what they used
	Lasts     time.Duration // as long as the measurement is planned
	Wait      time.Duration // for the pods to be ready
	Istio     bool          // pairs in Istio's ambient mesh, too

	run        string   // on the namespaces, by Build: nobody else has it
	made       []string // namespaces that Build made or may have made
	unanswered string   // the one of them that may yet come; empty: none
}

// kind is of pods. A client measures servers of its own kind.
type kind struct {
	name, mesh string // culvert.dev/mesh of its pods
	istio      bool   // its namespace is in Istio's ambient mesh
}

func (s *Stage) kinds() []kind {
	all := []kind{{name: "plain", mesh: "disabled"}, {name: "mesh", mesh: "enabled"}}
	if s.Istio {
		all = append(all, kind{name: "istio", mesh: "disabled", istio: true})
	}
	return all
}

// kindOf is that of a pod or target, by its name.
func (s *Stage) kindOf(name string) kind {
	first, _, _ := strings.Cut(name, "-")
	all := s.kinds()
	return all[max(0, slices.IndexFunc(all, func(k kind) bool { return k.name == first }))]
}

// namespaceOf is where pods of a kind are.
func (s *Stage) namespaceOf(k kind) string {
	if k.istio {
		return s.Namespace + besides
	}
	return s.Namespace
}

// pods are their names and nodes.
func (s *Stage) pods() map[string]Node {
	all := map[string]Node{}
	for _, kind := range s.kinds() {
		all[kind.name+"-client"] = s.Nodes[0]
		for _, place := range s.places() {
			all[kind.name+"-"+place.name] = place.node
		}
	}
	return all
}

type place struct {
	name string
	node Node
}

func (s *Stage) places() []place {
	all := []place{{"one-node", s.Nodes[0]}}
	if len(s.Nodes) > 1 {
		all = append(all, place{"two-nodes", s.Nodes[1]})
	}
	return all
}

// Targets is how many Build returns.
func (s *Stage) Targets() int { return len(s.kinds()) * len(s.places()) }

// Build makes namespaces and pods, and waits until all are ready, and those of a mesh are in
// it. It returns the targets between them. Whatever it returns, Remove takes away what it
// made.
func (s *Stage) Build(ctx context.Context) (targets []speed.Target, err error) {
	s.run = rand.Text()
	if s.Istio {
		if err := s.findIstio(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.makeNamespaces(ctx); err != nil {
		return nil, err
	}
	for name, node := range s.pods() {
		pod := s.pod(name, node)
		if err := s.API.Create(ctx, kubeapi.Path(pod.Namespace, "pods", ""), pod); err != nil {
			return nil, fmt.Errorf("make pod %s: %w", name, err)
		}
	}
	addresses, err := s.await(ctx)
	if err != nil {
		return nil, err
	}
	for _, place := range s.places() {
		for _, kind := range s.kinds() {
			name := kind.name + "-" + place.name
			t := speed.Target{Name: name, Address: net.JoinHostPort(addresses[name], strconv.Itoa(port))}
			if base := s.kinds()[0].name + "-" + place.name; base != name {
				t.Base = base
			}
			targets = append(targets, t)
		}
	}
	return targets, nil
}

func (s *Stage) pod(name string, node Node) corev1.Pod {
	kind := s.kindOf(name)
	yes, no, user := true, false, int64(65532)
	deadline, grace := int64((s.Lasts + s.Wait + beyond).Seconds()), int64(1)
	return corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespaceOf(kind), Name: name, Labels: map[string]string{managedBy: owner, meshLabel: kind.mesh}},
		Spec: corev1.PodSpec{
			NodeName: node.Name, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			RestartPolicy: corev1.RestartPolicyNever, ActiveDeadlineSeconds: &deadline, TerminationGracePeriodSeconds: &grace,
			AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{
				Name: Container, Image: s.Image, Command: []string{Program, "bench", "serve"},
				Ports: []corev1.ContainerPort{{ContainerPort: port}},
				ReadinessProbe: &corev1.Probe{
					ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port)}},
					PeriodSeconds: 1,
				},
				SecurityContext: &corev1.SecurityContext{
					RunAsNonRoot: &yes, RunAsUser: &user, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
					Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
					SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				},
			}},
		},
	}
}

// await waits until all pods are as they should be, and returns their addresses.
func (s *Stage) await(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	last := errors.New("nothing was heard of the pods")
	var unheard error // why not lately
	for {
		pods, err := s.all(ctx)
		if err == nil {
			if last = s.lacks(pods); last == nil {
				addresses := map[string]string{}
				for _, pod := range pods {
					addresses[pod.Name] = pod.Status.PodIP
				}
				return addresses, nil
			}
		} else if ctx.Err() != nil {
			err = nil
		}
		unheard = err
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("pods are not ready: %w", errors.Join(last, unheard))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// all are the pods that are there.
func (s *Stage) all(ctx context.Context) (pods []corev1.Pod, err error) {
	for _, namespace := range s.namespaces() {
		some, err := s.API.Pods(ctx, namespace, managedBy+"="+owner)
		if err != nil {
			return nil, err
		}
		pods = append(pods, some...)
	}
	return pods, nil
}

// lacks says what is not yet as it should be.
func (s *Stage) lacks(pods []corev1.Pod) error {
	var problems []error
	for name := range s.pods() {
		i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == name })
		if i < 0 {
			problems = append(problems, fmt.Errorf("%s is not there", name))
			continue
		}
		if why := unready(&pods[i], s.kindOf(name)); why != "" {
			problems = append(problems, fmt.Errorf("%s: %s", name, why))
		}
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}

func unready(pod *corev1.Pod, k kind) string {
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			return strings.TrimSpace(w.Reason + " " + w.Message)
		}
	}
	switch {
	case pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "":
		return "it is " + string(pod.Status.Phase)
	case !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}):
		return "it is not ready"
	case pod.Labels[meshLabel] == "enabled" && pod.Annotations[status] != "verified":
		return "in the mesh, it is " + cmp.Or(pod.Annotations[status], "not enrolled")
	case k.istio && pod.Annotations[redirection] != "enabled":
		return "Istio's agent has not taken it into the ambient mesh: it has no annotation " + redirection + ": enabled"
	}
	return ""
}

// Take measures one turn from the client of the target's kind.
func (s *Stage) Take(ctx context.Context, row speed.Row, target speed.Target, d time.Duration) (t speed.Turn, err error) {
	kind := s.kindOf(target.Name)
	command := []string{Program, "bench", "run", target.Address, "--rows", fmt.Sprintf("%s-%d", row.Kind, row.Connections),
		"--turns", "1", "--per-row", d.String(), "--output", "json", "--quiet"}
	if s.Costs && !kind.istio { // our ztunnels have no part in it, and Istio's tells no processor time
		for _, node := range s.Nodes {
			command = append(command, "--metrics", "http://"+net.JoinHostPort(node.Address, "15020")+"/metrics")
		}
	}
	text, err := s.Exec(ctx, s.namespaceOf(kind), kind.name+"-client", Container, command)
	if err != nil {
		return t, fmt.Errorf("in pod %s-client: %w", kind.name, err)
	}
	var report speed.Report
	if err := json.Unmarshal(text, &report); err != nil || len(report.Rows) != 1 || len(report.Rows[0].Results) != 1 {
		return t, fmt.Errorf("pod %s-client answers %.200q", kind.name, text)
	}
	r := report.Rows[0].Results[0]
	if r.Problem != "" {
		return t, errors.New(r.Problem)
	}
	return speed.Turn{Value: r.Median, Half: r.Half, Most: r.Most, CPU: r.CPU, Memory: r.Memory}, nil
}
