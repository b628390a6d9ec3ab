// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// invite prints what there is now, and what to try.
func invite(c cluster.Config) {
	fmt.Printf(`
Cluster %[1]s is up: node1 and node2, each with containerd, the kubelet and kube-proxy
(nftables); pods get their network from the CNI plugins bridge, host-local and portmap;
CoreDNS answers. The nodes have the images localhost/culvert/ztunnel:dev, culvert-cni and
culvert-identity; bin/cluster install runs them. Files and logs are in %[2]s.

  export KUBECONFIG=%[3]s PATH=%[4]s:$PATH

Five things to try:

  kubectl get nodes,pods --all-namespaces --output=wide
  kubectl create deployment web --image=localhost/podapp:1 --replicas=4 && kubectl expose deployment web --port=80 --target-port=8080
  kubectl exec deployment/web -- /bin/podapp get http://web
  kubectl port-forward service/web 8080:80
  bin/cluster enter node1 ctr --namespace=k8s.io containers list

make cluster-down removes all of it.
`, c.Name, cluster.Dir(c.Name), cluster.Kubeconfig(c.Name), c.Binaries)
}

// inviteMesh says what to try with Culvert.
const inviteMesh = `
Culvert is installed, in namespace culvert-system. No pod is in the mesh yet:

  kubectl label namespace default culvert.dev/mesh=enabled
  kubectl get pods --output=custom-columns='POD:.metadata.name,MESH:.metadata.annotations.culvert\.dev/status'
  kubectl logs --namespace=culvert-system --selector=app.kubernetes.io/name=ztunnel --container=ztunnel
`
