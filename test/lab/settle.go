// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Dump is what the lab reads of ztunnel's /config_dump.
type Dump struct {
	Services []struct {
		Namespace, Name string
		Ports           map[string]int // targets by port
	} `json:"services"`
	Pods   map[string]PodState `json:"workloadState"` // by pod UID
	Source struct {
		Generation uint64
		Stored     time.Time // zero: what is in force is live
		LastError  string
		Held       int // objects whose change waits, since it would let more in
	} `json:"source"`
	Text map[string]json.RawMessage `json:"-"` // all of it
}

// PodState is what ztunnel says of a sandbox.
type PodState struct {
	State    string   `json:"state"` // enrolled, pending or outside
	Reason   string   `json:"reason"`
	Identity string   `json:"identity"`
	Forwards []string `json:"forwards"` // devices that lead to a netns behind the pod

	Addresses struct {
		Steered []netip.Addr `json:"steered"`
	} `json:"addresses"`
	Tunnels []struct {
		Direction, Peer, Cipher, Records string
	} `json:"tunnels"`
}

// Dump asks ztunnel for its state.
func (n *Node) Dump(ctx context.Context) (d Dump, err error) {
	status, body, err := n.HTTPGet(ctx, "http://127.0.0.1:15000/config_dump")
	if err != nil {
		return d, err
	}
	if status != http.StatusOK {
		return d, fmt.Errorf("config dump of %s: status %d: %s", n.Name, status, body)
	}
	return d, errors.Join(json.Unmarshal([]byte(body), &d), json.Unmarshal([]byte(body), &d.Text))
}

// The marker is a Service whose port counts. A ztunnel that has its newest
// port has all that was written before it, since it takes a directory whole.
const (
	markerNamespace = "culvert-lab"
	markerName      = "marker"
)

// Settle waits until every running ztunnel uses all objects written so far.
// Enrollment follows from labels later: see Pod.AwaitEnrolled.
func (l *Lab) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("timed out"))
	defer cancel()
	want, err := l.mark()
	if err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if n.Ztunnel == nil || !n.Ztunnel.Running() {
			continue
		}
		if err := n.awaitMarker(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) mark() (int, error) {
	c := l.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marker = c.marker%65535 + 1
	return c.marker, c.put(&corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: markerNamespace, Name: markerName},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone,
			Ports:     []corev1.ServicePort{{Port: int32(c.marker)}},
		},
	})
}

func (n *Node) awaitMarker(ctx context.Context, want int) error {
	var last Dump
	marked := false // in an earlier dump: Held is of that moment or later
	err := until(ctx, func() (bool, error) {
		d, err := n.Dump(ctx)
		if err != nil {
			return false, err
		}
		last = d
		if marked {
			return d.Source.Held == 0, nil
		}
		for _, s := range d.Services {
			if s.Namespace != markerNamespace || s.Name != markerName {
				continue
			}
			for port := range s.Ports { // the only one
				// A later mark means that all before it is there too.
				n, err := strconv.Atoi(port)
				marked = (n-want+65535)%65535 < 30000
				return false, err
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("await the objects on %s: %w; its source says %+v", n.Name, err, last.Source)
	}
	return nil
}

// AwaitEnrolled waits until ztunnel has enrolled the pod.
func (p *Pod) AwaitEnrolled(ctx context.Context) error { return p.await(ctx, "enrolled") }

// AwaitOutside waits until ztunnel has unenrolled the pod, or never had it.
func (p *Pod) AwaitOutside(ctx context.Context) error { return p.await(ctx, "outside", "") }

func (p *Pod) await(ctx context.Context, states ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("timed out"))
	defer cancel()
	var last PodState
	err := until(ctx, func() (bool, error) {
		d, err := p.Node.Dump(ctx)
		last = d.Pods[p.UID]
		return slices.Contains(states, last.State), err
	})
	if err != nil {
		return fmt.Errorf("await that pod %v is %s: %w: it is %+v", p, states[0], err, last)
	}
	return nil
}
