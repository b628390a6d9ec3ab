// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"log/slog"
	"time"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

const (
	// lookEvery is how often what is so is compared with what is shown.
	lookEvery = time.Second
	// lookFor is how long one comparison may write to a slow API server. The rest is
	// told by the next one, as it is by then.
	lookFor = 5 * time.Second
)

// Config says what is told of, and to whom.
type Config struct {
	Kubeconfig string // that leads to the API server, as of kube.Options; required
	Node       string // name of the Node; required
	// Conditions are those of the node's pods; nil while they are not known. Required.
	Conditions func() []pods.Condition
	Shown      func() kube.Own // what the API server shows of the node and its pods; required
	Pending    func() []string // what the node's readiness waits for; required
	// OwnPod is ztunnel's own, namespace/name, which says what this version does with
	// policies; "": nobody does
	OwnPod string
	// Untaint: when OwnPod is Ready, with the CNI plugin's installer in it, and nothing is
	// pending, source.NotReadyTaint is taken off the Node; default false
	Untaint bool
	Log     *slog.Logger // discards
}

// Reporter tells of one node.
type Reporter struct {
	Config
	started time.Time
	writer  *writer
	pods    map[string]*pod // by the objects' UIDs
	node    node

	claimed time.Time // when OwnPod was written to last
	claims  rate.Left
}

// New returns a Reporter. An error says what is wrong with the kubeconfig; the API
// server is not asked before Run.
func New(c Config) (*Reporter, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w, err := newWriter(c.Kubeconfig, c.Node, c.Log)
	if err != nil {
		return nil, err
	}
	return &Reporter{Config: c, started: time.Now(), writer: w, pods: map[string]*pod{}}, nil
}

// Run tells of changes until ctx ends; then it returns nil.
func (r *Reporter) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			r.look(ctx, now)
		case <-ctx.Done():
			return nil
		}
	}
}

// Stats are counts of what was written so far: Events that were "written", or dropped
// by "rate" or because the "api" did not take them; statuses that were "written" or
// "failed".
func (r *Reporter) Stats() (events, statuses map[string]uint64) { return r.writer.stats() }

// look tells what is to be told at a moment.
func (r *Reporter) look(ctx context.Context, now time.Time) {
	shown := r.Shown()
	r.lookAtNode(ctx, now, shown)
	r.claim(ctx, now, shown.Pods)
	conditions := r.Conditions()
	if conditions == nil {
		return
	}
	byUID := make(map[string]pods.Condition, len(conditions))
	for _, c := range conditions {
		byUID[c.UID] = c
	}
	r.meetAll(shown.Pods)
	for begun := time.Now(); len(shown.Pods) > 0 && time.Since(begun) < lookFor; shown.Pods = shown.Pods[1:] {
		object := shown.Pods[0]
		c := byUID[object.UID]
		if c.Namespace != object.Namespace || c.Name != object.Name {
			c = pods.Condition{} // a static pod's UID is only claimed
		}
		r.tell(ctx, now, r.pods[object.ObjectUID], object, c)
	}
}

// meetAll begins to tell of pods that are new, and ends with those that have gone.
func (r *Reporter) meetAll(objects []kube.OwnPod) {
	before := r.pods
	r.pods = make(map[string]*pod, len(objects))
	for _, object := range objects {
		p := before[object.ObjectUID]
		if p == nil {
			p = r.meet(object)
		}
		r.pods[object.ObjectUID] = p
	}
}
