// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// A crowd has 20 pods on each node, ten in each Deployment, ten Deployments in each
// namespace.
const (
	podsOfNode      = 20
	podsOfGroup     = 10
	groupsOfTeam    = 10
	askers          = 8   // requests at a time
	changesASecond  = 100 // of pods
	readyOfCrowd    = `{"status":{"phase":"Running","podIP":"%[1]s","podIPs":[{"ip":"%[1]s"},{"ip":"%[2]s"}],"hostIP":"%[3]s","hostIPs":[{"ip":"%[3]s"}],"conditions":[{"type":"PodScheduled","status":"True"},{"type":"Initialized","status":"True"},{"type":"Ready","status":"%[4]s"}]}}`
	podOfCrowd      = `{"metadata":{"name":"%[1]s-6d4b75cb6d-%05[2]d","generateName":"%[1]s-6d4b75cb6d-","labels":{"app":"%[1]s","app.kubernetes.io/part-of":"webshop","app.kubernetes.io/version":"v1.27.3","pod-template-hash":"6d4b75cb6d","team":"payments"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"%[1]s-6d4b75cb6d","uid":"0b5cbb4a-5b52-4b4a-8f6e-8a2c1f0e7d11","controller":true}]},"spec":{"nodeName":"%[3]s","serviceAccountName":"frontend","automountServiceAccountToken":false,"containers":[{"name":"web","image":"web","ports":[{"name":"http","containerPort":8080}],"livenessProbe":{"httpGet":{"port":"http"}},"readinessProbe":{"httpGet":{"port":"http"}},"env":[{"name":"A","value":"a"}]},{"name":"exporter","image":"exporter","ports":[{"name":"metrics","containerPort":9102}],"readinessProbe":{"httpGet":{"port":"metrics"}}}]}}`
	nodeOfCrowd     = `{"metadata":{"name":"%[1]s"},"spec":{"podCIDR":"%[2]s","podCIDRs":["%[2]s","%[3]s"]},"status":{"addresses":[{"type":"InternalIP","address":"%[4]s"}]}}`
	serviceOfCrowd  = `{"metadata":{"name":"%[1]s"},"spec":{"selector":{"app":"%[1]s"},"ports":[{"port":80,"targetPort":"http"}]}}`
	sliceOfCrowd    = `{"metadata":{"name":"%[1]s","labels":{"kubernetes.io/service-name":"%[1]s"}},"addressType":"IPv4","ports":[{"name":"","port":8080,"protocol":"TCP"}],"endpoints":[%[2]s]}`
	endpointOfCrowd = `{"addresses":["%s"],"nodeName":"%s","conditions":{"ready":true,"serving":true,"terminating":false},"targetRef":{"kind":"Pod","name":"%s-6d4b75cb6d-%05d","namespace":"%s"}}`
)

// crowd is pods without anything behind them: their objects, at the API server. Nobody
// but the test writes to them, for the controllers are stopped.
type crowd struct {
	*running
	proxy string // kubectl proxy, which leads to the API server
	pods  int
}

// gather makes namespaces and nodes for a crowd of pods. The test's end takes all away.
func gather(c *running, pods int) *crowd {
	c.t.Helper()
	w := &crowd{running: c, proxy: c.proxy(), pods: pods}
	c.stop("kube-scheduler")
	c.t.Cleanup(w.disperse)
	c.stop("kube-controller-manager")
	w.each(pods/(podsOfGroup*groupsOfTeam), func(i int) error {
		return errorsOf(
			w.send("POST", "/api/v1/namespaces", fmt.Sprintf(`{"metadata":{"name":"team-%d","labels":{"crowd":"","culvert.dev/mesh":"enabled"}}}`, i)),
			w.send("POST", fmt.Sprintf("/api/v1/namespaces/team-%d/serviceaccounts", i), `{"metadata":{"name":"frontend"}}`))
	})
	w.each(pods/podsOfNode, func(i int) error {
		return w.send("POST", "/api/v1/nodes", fmt.Sprintf(nodeOfCrowd, nodeName(i*podsOfNode), nodeCIDR(i), fmt.Sprintf("fd00:64:0:%x::/64", i), nodeAddr(i*podsOfNode)))
	})
	return w
}

func (w *crowd) disperse() {
	w.each(w.pods/(podsOfGroup*groupsOfTeam), func(i int) error {
		return errorsOf(
			w.send("DELETE", fmt.Sprintf("/api/v1/namespaces/team-%d/pods", i), `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`),
			w.send("DELETE", fmt.Sprintf("/api/v1/namespaces/team-%d", i), ""))
	})
	w.each(w.pods/podsOfNode, func(i int) error { return w.send("DELETE", "/api/v1/nodes/"+nodeName(i*podsOfNode), "") })
}

// come makes the pods, running and ready.
func (w *crowd) come() {
	w.t.Helper()
	w.each(w.pods, func(i int) error {
		return errorsOf(w.send("POST", podPath(i, ""), fmt.Sprintf(podOfCrowd, group(i), i, nodeName(i))), w.turn(i, true))
	})
}

// turn makes a pod ready, or not.
func (w *crowd) turn(i int, ready bool) error {
	text := map[bool]string{true: "True", false: "False"}[ready]
	return w.send("PATCH", podPath(i, "/status"), fmt.Sprintf(readyOfCrowd, podAddr(i), fmt.Sprintf("fd00:64:0:%x::%x", i/podsOfNode, 1+i%podsOfNode), nodeAddr(i), text))
}

// open makes a Service in front of each ten pods.
func (w *crowd) open() {
	w.t.Helper()
	w.each(w.pods/podsOfGroup, func(g int) error {
		first := g * podsOfGroup
		var endpoints []string
		for i := first; i < first+podsOfGroup; i++ {
			endpoints = append(endpoints, fmt.Sprintf(endpointOfCrowd, podAddr(i), nodeName(i), group(i), i, team(i)))
		}
		return errorsOf(
			w.send("POST", "/api/v1/namespaces/"+team(first)+"/services", fmt.Sprintf(serviceOfCrowd, group(first))),
			w.send("POST", "/apis/discovery.k8s.io/v1/namespaces/"+team(first)+"/endpointslices", fmt.Sprintf(sliceOfCrowd, group(first), strings.Join(endpoints, ","))))
	})
}

// change has pods become unready, and ready again, at that rate until stop, which says
// how many it were a second.
func (w *crowd) change() (stop func() float64) {
	began, done := time.Now(), make(chan struct{})
	var changes atomic.Int64
	var all sync.WaitGroup
	for asker := range changesASecond { // each once a second, however slow an answer
		all.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for i := asker; ; i += changesASecond {
				select {
				case <-done:
					return
				case <-tick.C:
				}
				if err := w.turn(i%w.pods, i/w.pods%2 == 1); err != nil {
					w.t.Error(err)
					return
				}
				changes.Add(1)
			}
		})
	}
	return func() float64 {
		close(done)
		all.Wait()
		return float64(changes.Load()) / time.Since(began).Seconds()
	}
}

// each calls f for the numbers below n, several at a time.
func (w *crowd) each(n int, f func(i int) error) {
	w.t.Helper()
	var all sync.WaitGroup
	for asker := range askers {
		all.Go(func() {
			for i := asker; i < n; i += askers {
				if err := f(i); err != nil {
					w.t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

func (w *crowd) send(method, path, body string) error {
	request, err := http.NewRequest(method, w.proxy+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == "PATCH" {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, _ := io.ReadAll(response.Body)
	if response.StatusCode >= 300 && response.StatusCode != http.StatusNotFound {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, response.Status, said)
	}
	return nil
}

// proxy runs kubectl proxy until the test ends, and returns where.
func (r *running) proxy() string {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(r.binaries, "kubectl"), "--kubeconfig="+cluster.Kubeconfig(r.name), "proxy", "--port=0", "--reject-methods=^$")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	said, err := bufio.NewReader(out).ReadString('\n')
	_, address, ok := strings.Cut(strings.TrimSpace(said), "Starting to serve on ")
	if err != nil || !ok {
		r.t.Fatalf("kubectl proxy says %q: %v", said, err)
	}
	return "http://" + address
}

func group(i int) string {
	return fmt.Sprintf("payments-checkout-frontend-of-the-shop-%04d", i/podsOfGroup)
}
func team(i int) string { return fmt.Sprintf("team-%d", i/(podsOfGroup*groupsOfTeam)) }

func podPath(i int, more string) string {
	path := "/api/v1/namespaces/" + team(i) + "/pods"
	if more != "" {
		path += fmt.Sprintf("/%s-6d4b75cb6d-%05d%s", group(i), i, more)
	}
	return path
}

func podAddr(i int) string {
	return fmt.Sprintf("10.%d.%d.%d", 64+i/podsOfNode/256, i/podsOfNode%256, 1+i%podsOfNode)
}
func nodeCIDR(n int) string { return fmt.Sprintf("10.%d.%d.0/24", 64+n/256, n%256) }
func nodeName(i int) string {
	return fmt.Sprintf("ip-10-0-%d.eu-central-1.compute.internal", i/podsOfNode)
}
func nodeAddr(i int) string { return fmt.Sprintf("172.29.%d.%d", i/podsOfNode/250, 1+i/podsOfNode%250) }

// errorsOf returns the first.
func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
