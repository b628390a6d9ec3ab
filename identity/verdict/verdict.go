// SPDX-License-Identifier: Apache-2.0

// Package verdict tells the users of a cluster what ztunnel makes of their policies: by the
// condition ZtunnelAccepted on each AuthorizationPolicy and PeerAuthentication, and by a
// Warning Event for what is not understood.
//
//	verdict.go    what is to be said of one object
//	condition.go  where it stands in the object's status, and whose it is
//	follow.go     the objects of one kind, page by page: none is kept
//	nodes.go      on which nodes ztunnel does not do what a policy needs
//	due.go        the names of those whose condition is not as it should be
//	write.go      requests: bounded, and none while the API server is away
//
// One replica writes, the holder of a Lease; the others watch no policy. It judges by the
// same functions as ztunnel's source, and nobody waits for it: certificates, readiness and
// the policies' effect are without it what they are with it.
package verdict

import (
	"cmp"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// Reasons, which are Istio's but for the last two.
const (
	reasonAccepted      = "Accepted"         // understood whole
	reasonUnsupported   = "UnsupportedValue" // a part of it is not for layer 4, or means nothing
	reasonInvalid       = "Invalid"          // not understood
	reasonDryRun        = "DryRun"
	reasonNotOnAllNodes = "NotOnAllNodes" // understood whole, but not by all nodes
)

// maxMessage bounds what is said of an object, in bytes: an Event takes 1024.
const maxMessage = 1000

// verdict is what ztunnel makes of an object.
type verdict struct {
	inForce bool // it decides about connections, if narrower than it was written
	reason  string
	message string
	warn    bool // its owner did not mean that

	needs string // the feature of policy.Claim that a node needs for it; empty: none
	nodes string // what the message says of nodes without it
}

// judge says what ztunnel makes of an object. It takes the managed fields off.
func judge(kind source.Kind, u *unstructured.Unstructured, rootNamespace string) verdict {
	object, err := kube.ReadPolicy(kind, u)
	var v verdict
	switch p := object.(type) {
	case *source.PeerAuthentication:
		if err == nil {
			_, err = p.Policy()
		}
		v = ofPeerAuthentication(p, err, rootNamespace)
	case *source.AuthorizationPolicy:
		compiled, inFields := p.Policy()
		v = ofAuthorizationPolicy(compiled, cmp.Or(err, inFields))
		if v.needs = policy.FeatureAuthorization; compiled.DryRun {
			v.needs = policy.FeatureDryRun
		}
	}
	v.message = short(v.message, maxMessage)
	return v
}

func ofPeerAuthentication(p *source.PeerAuthentication, err error, rootNamespace string) verdict {
	switch {
	case err != nil:
		return notUnderstood("STRICT", err)
	case p.Namespace == rootNamespace && p.Spec.Selector != nil && len(p.Spec.Selector.MatchLabels) > 0:
		return verdict{reason: reasonUnsupported, message: "not in force: spec.selector: an object of the root namespace that has one is ignored", warn: true}
	}
	return verdict{inForce: true, reason: reasonAccepted, message: "every field is understood"}
}

func ofAuthorizationPolicy(p policy.AuthorizationPolicy, err error) verdict {
	warnings := strings.Join(p.Warnings, "; ")
	switch {
	case err != nil && p.DryRun:
		return verdict{reason: reasonInvalid, message: "not enforced: dry run; it is not understood: " + oneLine(err), warn: true}
	case err != nil:
		return notUnderstood("that nobody may connect", err)
	case p.TargetRefs:
		return verdict{reason: reasonUnsupported, message: "not in force: " + warnings}
	case p.Action == policy.Custom || p.Action == policy.Audit:
		return verdict{reason: reasonUnsupported, message: "not in force: " + warnings, warn: true}
	case p.DryRun && warnings == "":
		return verdict{reason: reasonDryRun, message: "not enforced: dry run"}
	case p.DryRun:
		return verdict{reason: reasonDryRun, message: "not enforced: dry run; it would be narrower than it is written: " + warnings, warn: true}
	case warnings != "":
		return verdict{inForce: true, reason: reasonUnsupported, message: "in force, narrower than it is written: " + warnings, warn: true}
	}
	return verdict{inForce: true, reason: reasonAccepted, message: "every field is understood"}
}

func notUnderstood(strictest string, err error) verdict {
	return verdict{reason: reasonInvalid, warn: true, message: fmt.Sprintf("not understood, so that it keeps its former meaning, or if it has none means %s for all that it may select: %s",
		strictest, oneLine(err))}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// status is that of a condition.
func (v verdict) status() metav1.ConditionStatus {
	if v.inForce {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// text is the message of a condition. An Event's is v.message: another node is no news of
// the object.
func (v verdict) text() string { return short(v.message, maxMessage-len(v.nodes)) + v.nodes }

// short returns one line of at most n bytes.
func short(text string, n int) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "�")), " ")
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-len("…")], "") + "…"
}
