// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca/cluster"
	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

const (
	// rekeyName is that of the ConfigMap and the Lease by which replicas re-key the root.
	rekeyName = "culvert-rekey"
	// rekeyEvery is how often the API server is asked and told while they do.
	rekeyEvery = 3 * time.Second
)

// rekeyer is this replica's part in a re-key of the root.
func (c *config) rekeyer(a *authority, heard func(since time.Time) rekey.Report) (*rekey.Stepper, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	o := rekey.Options{
		CA: a.ca, Store: a.place(), Board: &rekey.Files{Dir: c.dir}, Name: fmt.Sprintf("%s-%d", host, os.Getpid()),
		Heard: heard, Skew: c.clockSkew, Tell: a.keeper.Happened, Log: c.log,
	}
	if c.secret == "" {
		return rekey.NewStepper(o), nil
	}
	api, err := kube.ClientConfig(c.kubeconfig)
	if err != nil {
		return nil, refused("kubeconfig", err)
	}
	o.Name, o.Every = host, rekeyEvery
	if c.kubeconfig != kube.InCluster {
		o.Name += cluster.NotAPod
	}
	namespace, _, _ := strings.Cut(c.secret, "/")
	shared, err := cluster.NewRekey(api, namespace+"/"+rekeyName, o.Name)
	if err != nil {
		return nil, err
	}
	o.Board, o.Lead = shared, shared.Lead
	return rekey.NewStepper(o), nil
}
