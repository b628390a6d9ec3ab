// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestMetricsSayWhereTheNodesOfBothEndsAre(t *testing.T) {
	registry := workload.NewRegistry(nil)
	registry.Replace(workload.Mesh{Nodes: []workload.Node{{Name: "one", Region: "atlantis", Zone: "east"}, {Name: "two", Zone: "west"}}})
	web, db := pod("web", webAddr, true), pod("db", dbAddr, true)
	web.Node, db.Node = "one", "two"
	r := record{direction: outbound, src: end{workload: &web}, dst: end{workload: &db}}
	var f metrics.Flow
	r.describe(&f, "Kubernetes", registry)
	if f.Source.Region != "atlantis" || f.Source.Zone != "east" || f.Destination.Region != "" || f.Destination.Zone != "west" {
		t.Errorf("%+v", f)
	}
	r.dst = end{} // nobody known
	if r.describe(&f, "Kubernetes", registry); f.Destination.Zone != "" || f.Destination.Cluster != "" {
		t.Errorf("of nobody: %+v", f.Destination)
	}
}
