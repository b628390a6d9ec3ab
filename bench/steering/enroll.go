// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
)

// The rows of enrolment.
const (
	enrolling = "enroll a pod"      // ztunnel's own steps, from its log
	starting  = "start a pod"       // object, sandbox, CNI ADD, first process: as the kubelet sees it
	inMesh    = "in the mesh"       // with culvert-cni in its chain, and labelled
	outOfMesh = "out of the mesh"   // likewise, and not labelled
	noPlugin  = "no plugin of ours" // without
)

// enrolment is the durations of a part, in milliseconds.
type enrolment struct {
	enrolled []float64
	started  map[string][]float64
}

// measureEnrolment starts pods by turns in the mesh, out of it, and without
// culvert-cni, until so many were enrolled. Every tenth ServiceAccount is new.
func measureEnrolment(ctx context.Context, pods int) (e enrolment, err error) {
	l, err := lab.New(ctx, lab.Options{Nodes: 1})
	if err != nil {
		return e, err
	}
	defer func() {
		if cerr := l.Close(); err == nil {
			err = cerr
		}
	}()
	if err := l.Namespace("mesh", map[string]string{"culvert.dev/mesh": "enabled"}); err != nil {
		return e, err
	}
	if err := l.Namespace("bare", nil); err != nil {
		return e, err
	}
	node := l.Nodes[0]
	e.started = make(map[string][]float64)
	for i := range pods {
		account := fmt.Sprintf("account%d", i/10)
		for _, kind := range []struct {
			name string
			spec lab.PodSpec
		}{
			{inMesh, lab.PodSpec{Namespace: "mesh"}},
			{outOfMesh, lab.PodSpec{Namespace: "bare"}},
			{noPlugin, lab.PodSpec{Namespace: "bare", Unmeshed: true}},
		} {
			spec := kind.spec
			spec.Name, spec.ServiceAccount, spec.Hasty = fmt.Sprintf("pod%d", i), account, true
			if spec.Unmeshed {
				spec.Name += "-unmeshed"
			}
			start := time.Now()
			p, err := node.Pod(ctx, spec)
			if err != nil {
				return e, err
			}
			e.started[kind.name] = append(e.started[kind.name], milliseconds(time.Since(start)))
			if kind.name != inMesh { // those in the mesh stay: a node is not empty
				if err := p.Delete(ctx); err != nil {
					return e, err
				}
			}
		}
	}
	e.enrolled, err = enrolledIn(node.Ztunnel.Log)
	if err == nil && len(e.enrolled) != pods {
		err = fmt.Errorf("ztunnel enrolled %d pods, want %d", len(e.enrolled), pods)
	}
	return e, err
}

// enrolledIn reads how long ztunnel says it took.
func enrolledIn(log string) (took []float64, err error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct{ Msg, Took string }
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Msg != "pod enrolled" {
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

func (e enrolment) results() []result {
	results := []result{newDistribution(enrolling, enrolling, e.enrolled)}
	for _, peer := range []string{noPlugin, outOfMesh, inMesh} {
		results = append(results, newDistribution(starting, peer, e.started[peer]))
	}
	return results
}

func newDistribution(row, peer string, values []float64) result {
	s, p95 := spreadOf(values), quantile(values, 0.95)
	return result{Row: row, Peer: peer, Unit: "ms", Median: s.Median, P25: s.P25, P75: s.P75, P95: &p95, N: len(values)}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
