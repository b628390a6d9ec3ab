// SPDX-License-Identifier: Apache-2.0

package clitest

import (
	"fmt"
	"time"
)

// Pair is a mesh of two nodes that is well: shop/web-1 on node1, at 10.0.0.7, has a tunnel
// and a connection to shop/db-1 on node2, at 10.0.1.8, which is behind the Service shop/db,
// 10.96.0.10:5432. Whoever changes what it returns changes no other's.
func Pair() (one, two Ztunnel) {
	root := Authority("root", nil, Now.Add(-100*Day), Now.Add(1000*Day))
	issuer := Authority("issuer", root, Now.Add(-Day), Now.Add(100*Day))
	one, two = inPair("node1", "web", issuer), inPair("node2", "db", issuer)
	one.Pods["uid-web-1"].(map[string]any)["tunnels"] = []any{
		map[string]any{"direction": "outbound", "peer": PairID("db"), "address": "10.0.1.8:15008"},
	}
	two.Pods["uid-db-1"].(map[string]any)["connections"] = map[string]any{"inbound": []any{
		map[string]any{"direction": "inbound", "path": "tunnel", "protocol": "HBONE", "src": "10.0.0.7:4711", "actualDst": "10.0.1.8:5432"},
	}}
	return one, two
}

// PairID is the identity of a ServiceAccount of Pair.
func PairID(account string) string { return "spiffe://cluster.local/ns/shop/sa/" + account }

func inPair(node, account string, issuer *Signer) Ztunnel {
	id, name := PairID(account), account+"-1"
	return Ztunnel{
		Node: node,
		Held: []Held{{ID: id, Leaf: issuer.Leaf(id, Now.Add(-20*time.Minute), Now.Add(40*time.Minute))}},
		Policies: map[string]any{"RootNamespace": "istio-system", "AuthorizationPolicies": []any{map[string]any{
			"Namespace": "shop", "Name": "db", "Action": "ALLOW", "Selector": map[string]string{"app": "db"},
			"Rules": []any{[]any{[]any{map[string]any{"Principals": []string{"cluster.local/ns/shop/sa/web"}}}}},
		}}},
		Workloads: []any{PairPod("web", "node1", "10.0.0.7", 80), PairPod("db", "node2", "10.0.1.8", 5432)},
		Pods: map[string]any{"uid-" + name: map[string]any{
			"state": "enrolled", "identity": id, "certificate": map[string]any{"state": "valid"}, "verified": Now.Add(-time.Second),
			"sandbox": map[string]any{"namespace": "shop", "name": name},
		}},
		More: map[string]any{
			"services": []any{
				pairService("db", "10.96.0.10", map[string]any{"uid-db-1": map[string]any{
					"workloadUid": "uid-db-1", "port": map[string]any{"5432": 5432}, "addresses": []string{"10.0.1.8"}, "node": "node2",
				}}),
				pairService("empty", "10.96.0.11", map[string]any{}),
			},
			"mesh":            map[string]any{"cidrs": []string{"10.0.0.0/16", "10.96.0.0/16"}, "nodes": []any{}},
			"networkPolicies": map[string]any{"policies": []any{}, "modes": map[string]any{}, "namespaces": map[string]any{}},
			"steering":        map[string]any{"problem": "", "repairs": []any{}},
		},
	}
}

// PairPod is a pod of Pair in its list of workloads, which may be changed.
func PairPod(account, node, addr string, port int) map[string]any {
	return map[string]any{
		"UID": "uid-" + account + "-1", "Namespace": "shop", "Name": account + "-1", "Owner": account, "Node": node, "ID": PairID(account),
		"ServiceAccount": account, "Addrs": []string{addr}, "Labels": map[string]string{"app": account}, "Meshed": true, "Ready": true,
		"Declared": []int{port}, "Ports": []any{map[string]any{"Name": "main", "Port": port}},
	}
}

func pairService(name, vip string, endpoints map[string]any) map[string]any {
	return map[string]any{
		"name": name, "namespace": "shop", "hostname": fmt.Sprintf("%s.shop.svc.cluster.local", name), "vips": []string{"/" + vip},
		"ports": map[string]any{"5432": 5432}, "portNames": map[string]string{"5432": "sql"}, "endpoints": endpoints, "ipFamilies": "IPv4Only",
	}
}
