// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestWhatIsShownOfTheOwnNodeFollowsTheAPIServer(t *testing.T) {
	for _, streams := range []bool{true, false} {
		server := startServer(t)
		if !streams {
			server.NoStreams()
		}
		server.Set(cluster(t)...)
		elsewhere := pod(t, "elsewhere", 2)
		elsewhere.Spec.NodeName = "node-2"
		server.Set(elsewhere, parse[corev1.Pod](t, `{metadata: {name: static, namespace: shop, uid: mirror, labels: {culvert.dev/mesh: disabled},
 annotations: {kubernetes.io/config.hash: from-file, kubernetes.io/config.mirror: m, culvert.dev/status: verified}}, spec: {nodeName: node-1}, status: {phase: Succeeded}}`))
		o := options(server)
		o.Node = "node-1"
		w := start(t, o)

		shows := func(what string, taints int, want ...OwnPod) {
			t.Helper()
			await(t, what, func() bool {
				own := map[string]OwnPod{}
				for _, p := range w.source.Own().Pods {
					own[p.Name] = p
				}
				wanted := map[string]OwnPod{}
				for _, p := range want {
					wanted[p.Name] = p
				}
				return maps.Equal(own, wanted) && len(w.source.Own().Taints) == taints
			})
		}
		static := OwnPod{Namespace: "shop", Name: "static", ObjectUID: "mirror", UID: "from-file", Ended: true, Status: "verified", labelled: true}
		web := OwnPod{Namespace: "shop", Name: "web-1", ObjectUID: "uid-web-1", UID: "uid-web-1", Ready: true}
		shows("at first", 0, static, web)

		told := pod(t, "web-1", 1)
		told.Annotations = map[string]string{"culvert.dev/status": "pending: no sandbox"}
		web.Status = "pending: no sandbox"
		server.Set(told, parse[corev1.Node](t, `{metadata: {name: node-1}, spec: {taints: [{key: a, effect: NoSchedule}]}}`),
			parse[corev1.Node](t, `{metadata: {name: node-2}, spec: {taints: [{key: a, effect: NoSchedule}, {key: b, effect: NoSchedule}]}}`))
		shows("a status and a taint", 1, static, web)

		server.Set(namespace(t, "shop", "culvert.dev/mesh: perhaps"))
		web.Wrong = `metadata.labels[culvert.dev/mesh]: "perhaps" means nothing: not enabled or disabled`
		shows("a label that means nothing", 1, static, web)

		server.Delete(told)
		shows("a pod that went", 1, static)
	}
}
