// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

const (
	// settle is how long a bad status must last before it is told: a ztunnel that
	// starts, and a pod that does, pass through some.
	settle = 5 * time.Second
	// shownAgain is how long the watch may take to show what was written.
	shownAgain = 10 * time.Second
	// maxStatus is how long the annotation may be, in bytes.
	maxStatus = 512
)

// What one pod may have written.
var (
	podStatuses = rate.Limit{PerSecond: 1.0 / 20, Burst: 5}
	podEvents   = rate.Limit{PerSecond: 1.0 / 60, Burst: 10}
)

// pod is what was told of one.
type pod struct {
	text     string // of its annotation, as it should be
	warnings []pods.Warning

	candidate string // a status that has not settled
	since     time.Time

	written   string // text that was written last
	writtenAt time.Time
	statuses  rate.Left
	events    rate.Left
}

// meet begins to tell of a pod. What an earlier ztunnel said of one is not said again.
// Of a pod that is younger than this ztunnel, an annotation is somebody else's.
func (r *Reporter) meet(object kube.OwnPod) *pod {
	p := &pod{}
	if object.Created.Before(r.started) {
		p.text = object.Status
	}
	return p
}

// tell writes what is new of a pod.
func (r *Reporter) tell(ctx context.Context, now time.Time, p *pod, object kube.OwnPod, c pods.Condition) {
	if object.Deleting {
		return
	}
	if p.settled(now, c) {
		text := statusText(c)
		if text != p.text && !object.Ended {
			r.podEvent(ctx, now, p, object, changeOf(word(p.text), c))
		}
		p.text = text
	}
	if object.Wrong != "" {
		c.Warnings = append(slices.Clip(c.Warnings), pods.Warning{Reason: "NotUnderstood", Sentence: "it stays in the mesh, or outside, as it was: " + object.Wrong})
	}
	for _, w := range c.Warnings {
		if !slices.Contains(p.warnings, w) {
			r.podEvent(ctx, now, p, object, change{true, w.Reason, w.Sentence})
		}
	}
	p.warnings = c.Warnings
	if p.due(now, object) && r.writer.may(now) && p.statuses.Spend(podStatuses) && r.writer.status(ctx, now, object, p.text) {
		p.written, p.writtenAt = p.text, now
	}
}

// settled reports whether c is to be told: it is known, and has lasted if it is bad.
func (p *pod) settled(now time.Time, c pods.Condition) bool {
	switch {
	case c.Status == pods.Deleted:
		return false
	case c.Status == "" || c.Status == pods.Verified:
		p.candidate = ""
		return true
	case c.Why == "":
		return false
	}
	if p.candidate != c.Status {
		p.candidate, p.since = c.Status, now
	}
	return c.Status == word(p.text) || now.Sub(p.since) >= settle
}

// due reports whether the annotation has to be written now.
func (p *pod) due(now time.Time, object kube.OwnPod) bool {
	late := p.written == p.text && now.Sub(p.writtenAt) < shownAgain
	return object.Status != p.text && !late
}

func (r *Reporter) podEvent(ctx context.Context, now time.Time, p *pod, object kube.OwnPod, c change) {
	if c.reason == "" {
		return
	}
	if !p.events.Spend(podEvents) {
		r.writer.count(eventDropped)
		return
	}
	r.writer.event(ctx, now, event{change: c, object: podReference(object)})
}

// statusText is the annotation of a pod: a word, and why it is not the best one.
func statusText(c pods.Condition) string {
	if c.Status == "" || c.Status == pods.Verified {
		return c.Status
	}
	return short(c.Status+": "+c.Why, maxStatus)
}

// word is the first of an annotation.
func word(text string) string {
	status, _, _ := strings.Cut(text, ":")
	return status
}

// short cuts a text to at most n bytes, and one line.
func short(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-len("…")], "") + "…"
}
