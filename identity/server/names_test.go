// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"slices"
	"testing"
)

// A004-17: the DNS names of a leaf are those of the pods that it is for, by the CA's own
// source, Services first. None is the CA's own: nodes would take a pod for it.
func TestALeafNamesThePodsThatItIsFor(t *testing.T) {
	r := newRig(t, nil)
	at := func(node, outside string, names ...string) Running {
		return Running{Node: node, ServiceAccount: web, UID: "u", Outside: outside, DNSNames: names}
	}
	ask := func(running ...Running) ([]string, map[string]any) {
		t.Helper()
		r.cfg.Placement.Replace(running, nil)
		r.log.take(t)
		response, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
		if err != nil {
			t.Fatal(err)
		}
		return leafOf(t, response).DNSNames, r.log.take(t)[0]
	}
	got, record := ask(at("node-1", "", "web-1.shop.pod", "web.shop.svc"), at("node-1", "", "one.shop.pod", "web.shop.svc"),
		at("node-2", "", "two.shop.pod"), at("node-1", "no label", "three.shop.pod"))
	if want := []string{"web.shop.svc", "one.shop.pod", "web-1.shop.pod"}; !slices.Equal(got, want) || fmt.Sprint(record[logDNSNames]) != fmt.Sprint(want) {
		t.Errorf("names %v, want %v; the record says %v", got, want, record[logDNSNames])
	}
	if got, _ := ask(at("node-1", "")); len(got) != 0 {
		t.Errorf("names of nobody: %v", got)
	}
	var many []string
	for n := range 100 {
		many = append(many, fmt.Sprintf("web-%02d.shop.pod", n))
	}
	if got, _ := ask(at("node-1", "", append(many, "web.shop.svc")...)); !slices.Equal(got, append([]string{"web.shop.svc"}, many[:15]...)) {
		t.Errorf("of a hundred: %v", got)
	}

	r.cfg.DNSNames = []string{"web.shop.svc"}
	if got, _ := ask(at("node-1", "", "web.shop.svc", "web.shop.svc.cluster.local")); !slices.Equal(got, []string{"web.shop.svc.cluster.local"}) {
		t.Errorf("a leaf has the CA's own name: %v", got)
	}
	if got, _ := ask(at("node-1", "", "web.bank.svc", "example.com", "web.shop.svc.cluster.local")); !slices.Equal(got, []string{"web.shop.svc.cluster.local"}) {
		t.Errorf("names that are not the namespace's: %v", got)
	}
}
