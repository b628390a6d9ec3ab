// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
)

// The rows of enrolment, and what is compared in the second.
const (
	enrolling = "enroll a pod" // ztunnel's own steps, from its log
	starting  = "start a pod"  // object, sandbox, CNI ADD, first process: as the kubelet sees it

	noPlugin  = "without culvert-cni"
	outOfMesh = "out of the mesh"
	inMesh    = "in the mesh"
)

// starts are the kinds of pods, in the order in which they are started.
var starts = []struct {
	kind string
	spec lab.PodSpec
}{
	{noPlugin, lab.PodSpec{Namespace: "bare", Unmeshed: true}},
	{outOfMesh, lab.PodSpec{Namespace: "bare"}},
	{inMesh, lab.PodSpec{Namespace: "mesh"}},
}

// enrolment is a node with a ztunnel, to which pods are added.
type enrolment struct {
	lab     *lab.Lab
	rounds  int
	started map[string][]float64 // milliseconds
}

func newEnrolment(ctx context.Context) (*enrolment, error) {
	l, err := lab.New(ctx, lab.Options{Nodes: 1})
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		l.Namespace("mesh", map[string]string{"culvert.dev/mesh": "enabled"}),
		l.Namespace("bare", nil),
	)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &enrolment{lab: l, started: make(map[string][]float64)}, nil
}

// measureEnrolment starts so many pods of each kind, by turns.
func measureEnrolment(ctx context.Context, pods int) ([]result, error) {
	e, err := newEnrolment(ctx)
	if err != nil {
		return nil, err
	}
	for range pods {
		if err := e.repeat(ctx); err != nil {
			return nil, errors.Join(err, e.lab.Close())
		}
	}
	results, err := e.results()
	return results, errors.Join(err, e.lab.Close())
}

// repeat starts one pod of each kind. Those in the mesh stay, so that the node
// fills up; ten of them share a ServiceAccount.
func (e *enrolment) repeat(ctx context.Context) error {
	for _, s := range starts {
		spec := s.spec
		spec.Name, spec.Hasty = fmt.Sprintf("pod%d", e.rounds), true
		spec.ServiceAccount = fmt.Sprintf("account%d", e.rounds/10)
		start := time.Now()
		pod, err := e.lab.Nodes[0].Pod(ctx, spec)
		if err != nil {
			return err
		}
		e.started[s.kind] = append(e.started[s.kind], milliseconds(time.Since(start)))
		if s.kind == inMesh {
			continue
		}
		if err := pod.Delete(ctx); err != nil {
			return err
		}
	}
	e.rounds++
	return nil
}

func (e *enrolment) results() ([]result, error) {
	took, err := enrolledIn(e.lab.Nodes[0].Ztunnel.Log)
	if err != nil {
		return nil, err
	}
	if len(took) != e.rounds {
		return nil, fmt.Errorf("ztunnel enrolled %d pods, want %d", len(took), e.rounds)
	}
	results := []result{newDistribution(enrolling, inMesh, took)}
	for _, s := range starts {
		r := newDistribution(starting, s.kind, e.started[s.kind])
		if s.kind != noPlugin {
			r.compare(e.started[s.kind], e.started[noPlugin])
		}
		results = append(results, r)
	}
	return results, nil
}

// enrolledIn reads how long ztunnel says it took.
func enrolledIn(log string) (took []float64, err error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct{ Message, Took string }
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Message != "pod enrolled" {
			continue
		}
		d, err := time.ParseDuration(line.Took)
		if err != nil {
			return nil, err
		}
		took = append(took, milliseconds(d))
	}
	return took, nil
}

func newDistribution(row, peer string, values []float64) result {
	s, p95 := spreadOf(values), round(quantile(values, 0.95))
	return result{Row: row, Peer: peer, Unit: "ms", Median: s.Median, P25: s.P25, P75: s.P75, P95: &p95, N: len(values)}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
