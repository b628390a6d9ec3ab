// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestAProbeIsThePodsOwnOnlyIfItNamesNobodyElse(t *testing.T) {
	at := func(host string) workload.ForeignProbe {
		addr, _ := netip.ParseAddr(host)
		return workload.ForeignProbe{Host: host, Addr: addr.Unmap(), Port: 8080}
	}
	for host, want := range map[string]struct {
		own     []uint16
		foreign []workload.ForeignProbe
	}{
		`""`:                  {own: []uint16{8080}},
		"10.1.0.2":            {own: []uint16{8080}},
		`"fd00::2"`:           {own: []uint16{8080}},
		`"::ffff:10.1.0.2"`:   {own: []uint16{8080}},
		"10.1.0.3":            {foreign: []workload.ForeignProbe{at("10.1.0.3")}},
		`"::ffff:10.1.0.3"`:   {foreign: []workload.ForeignProbe{at("::ffff:10.1.0.3")}},
		"db.shop.svc":         {foreign: []workload.ForeignProbe{at("db.shop.svc")}},
		"127.0.0.1":           {},
		`"::1"`:               {},
		"localhost":           {},
		"localhost.evil.exam": {foreign: []workload.ForeignProbe{at("localhost.evil.exam")}},
	} {
		for _, probe := range []string{
			"livenessProbe: {httpGet: {port: 8080, host: %}}", "readinessProbe: {tcpSocket: {port: http, host: %}}",
			"startupProbe: {httpGet: {port: http, host: %}}", "lifecycle: {postStart: {httpGet: {port: 8080, host: %}}}",
			"lifecycle: {preStop: {tcpSocket: {port: 8080, host: %}}}",
		} {
			w := onlyWorkload(t, `
metadata: {name: a, namespace: shop, uid: a}
spec:
  containers:
  - name: a
    ports: [{name: http, containerPort: 8080}]
    `+strings.ReplaceAll(probe, "%", host)+`
status: {podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]}
`)
			if !cmp.Equal(w.ProbePorts, want.own) {
				t.Errorf("%s with host %s: ports %v, want %v", probe, host, w.ProbePorts, want.own)
			}
			if diff := cmp.Diff(want.foreign, w.ForeignProbes, values); diff != "" {
				t.Errorf("%s with host %s: %s", probe, host, diff)
			}
		}
	}
}
