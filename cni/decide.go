// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

// What to do, for whoever reads the pod's events.
const (
	hintZtunnel = "start or repair ztunnel on this pod's node, see the log of its pod there " +
		"(kubectl get pods --all-namespaces --selector app.kubernetes.io/name=ztunnel --output wide); the runtime tries this pod again by itself"
	hintReason = "see the log of ztunnel on this node; the runtime tries this pod again by itself"
)

// decide says whether the pod may start though no ztunnel answered:
//
//	ztunnel's own pod                          yes, or the node never gets one
//	its namespace is in the mesh               no, it would talk in plaintext
//	its namespace is known and not in the mesh yes
//	its namespace is not in the snapshot       no, it is newer and may be labelled
//	there is no snapshot                       no, any namespace may be labelled
//
// No snapshot means that ztunnel never served this node, or that it rebooted
// and /run was wiped. Letting pods pass then would make the first minute of
// every boot a plaintext one. It cannot deadlock: what ztunnel needs to start
// is its own pod, or that of the CA where its own is on the host network, for
// which no CNI plugin is run. The plugin's config passes it as ownPod, since no
// snapshot names it yet.
func (c config) decide(req enroll.Request, unanswered error) error {
	snapshot, err := enroll.ReadSnapshot(c.Snapshot)
	if c.isOwnPod(req) || err == nil && samePod(snapshot.OwnPod, req) {
		return nil
	}
	var why string
	switch ns := req.PodNamespace; {
	case errors.Is(err, fs.ErrNotExist):
		why = fmt.Sprintf("%v, and left no snapshot %s to tell whether namespace %s is in the mesh", unanswered, c.Snapshot, ns)
	case err != nil:
		why = fmt.Sprintf("%v, and its snapshot is of no use: %v", unanswered, err)
	case slices.Contains(snapshot.MeshedNamespaces, ns):
		why = fmt.Sprintf("namespace %s is in the mesh and %v", ns, unanswered)
	case slices.Contains(snapshot.AllNamespaces, ns):
		return nil
	default:
		why = fmt.Sprintf("namespace %s is newer than what ztunnel knew last, so it may be in the mesh, and %v", ns, unanswered)
	}
	return refuse(req, why, hintZtunnel)
}

// refuse blocks the pod for now: kubelet backs off and tries again.
func refuse(req enroll.Request, why, hint string) error {
	return types.NewError(types.ErrTryAgainLater,
		fmt.Sprintf("pod %s/%s may not start: %s", req.PodNamespace, req.PodName, why), hint)
}

// isOwnPod compares names only. Whoever may create pods in ztunnel's namespace
// could take such a name, but could as well mount the node's disk.
func (c config) isOwnPod(req enroll.Request) bool {
	namespace, name, ok := strings.Cut(c.OwnPod, "/")
	if !ok || req.PodNamespace != namespace {
		return false
	}
	return req.PodName == name || strings.HasSuffix(name, "-") && strings.HasPrefix(req.PodName, name)
}

func samePod(own enroll.Pod, req enroll.Request) bool {
	return own.Name != "" && own.Namespace == req.PodNamespace && own.Name == req.PodName &&
		(own.UID == "" || req.PodUID == "" || own.UID == req.PodUID)
}
