// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// api asks the API server, as kubectl get --raw does, at a hundredth of its cost.
type api struct{ client *http.Client }

// newAPI authenticates as the API server's own client of kubelets, an administrator.
func newAPI(c Config) (*api, error) {
	cert, err := tls.LoadX509KeyPair(c.pki("kubelet-client.crt"), c.pki("kubelet-client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}}
	return &api{&http.Client{Transport: transport, Timeout: 5 * time.Second}}, nil
}

// get reads the object at path into answer, which may be nil.
func (a *api) get(path string, answer any) error {
	response, err := a.client.Get(apiURL + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200s", path, response.Status, body)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(body, answer)
}

func (a *api) ready() error { return a.get("/readyz", nil) }

// podPrefixes returns the prefixes of each node's pods, once all have theirs.
func (a *api) podPrefixes() (map[string]dual[netip.Prefix], error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ PodCIDRs []netip.Prefix }
		}
	}
	if err := a.get("/api/v1/nodes", &list); err != nil {
		return nil, err
	}
	prefixes := make(map[string]dual[netip.Prefix])
	for _, item := range list.Items {
		if len(item.Spec.PodCIDRs) == 2 {
			prefixes[item.Metadata.Name] = dual[netip.Prefix](item.Spec.PodCIDRs)
		}
	}
	if len(prefixes) < len(nodes) {
		return nil, fmt.Errorf("%d of %d nodes have registered and have two podCIDRs", len(prefixes), len(nodes))
	}
	return prefixes, nil
}

// nodeReady is an error until the node's kubelet says that it is.
func (a *api) nodeReady(name string) error {
	var n struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := a.get("/api/v1/nodes/"+name, &n); err != nil {
		return err
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return fmt.Errorf("%s is not ready: %s", name, condition.Message)
		}
	}
	return fmt.Errorf("%s does not say whether it is ready", name)
}

// deploymentReady is an error until all of a deployment's replicas are ready.
func (a *api) deploymentReady(namespace, name string) error {
	var d struct {
		Spec   struct{ Replicas int }
		Status struct{ ReadyReplicas int }
	}
	if err := a.get("/apis/apps/v1/namespaces/"+namespace+"/deployments/"+name, &d); err != nil {
		return err
	}
	if d.Status.ReadyReplicas < d.Spec.Replicas {
		return fmt.Errorf("%d of %d pods of %s are ready", d.Status.ReadyReplicas, d.Spec.Replicas, name)
	}
	return nil
}

// until asks again and again until done has no error. When ctx is done first, it
// returns the last one.
func until(ctx context.Context, done func() error) error {
	const pause = 100 * time.Millisecond
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %v", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
