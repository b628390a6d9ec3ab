// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func pod() Request {
	return Request{
		Network:       "kindnet",
		ContainerID:   "5f2e9b0c",
		IfName:        "eth0",
		Netns:         "/var/run/netns/cni-1b2c",
		PodNamespace:  "shop",
		PodName:       "web-6d4cf56db6-x7k2p",
		PodUID:        "0f4c7a52-6a57-4a6e-8b6e-2f8d5d9c1e01",
		IPs:           []netip.Addr{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")},
		BootID:        "b9d6c6d6-2d2d-4a3f-9d6e-000000000000",
		PluginVersion: "v0.1.0",
	}
}

func TestRequestSurvivesTheWire(t *testing.T) {
	data, err := json.Marshal(pod())
	if err != nil {
		t.Fatal(err)
	}
	var got Request
	if err := decode(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pod(), got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for _, verb := range []string{"add", "del", "check"} {
		if err := got.Validate(verb); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

func TestRequestErrorsOpenWithTheFieldOnTheWire(t *testing.T) {
	for name, change := range map[string]func(*Request){
		"network":       func(r *Request) { r.Network = "" },
		"containerID":   func(r *Request) { r.ContainerID = "../../etc" },
		"ifName":        func(r *Request) { r.IfName = "seventeen-letters" },
		"netns":         func(r *Request) { r.Netns = "proc/1/ns/net" },
		"podNamespace":  func(r *Request) { r.PodNamespace = "Shop" },
		"podName":       func(r *Request) { r.PodName = "web\nfake log line" },
		"podUID":        func(r *Request) { r.PodUID = strings.Repeat("a", 65) },
		"bootID":        func(r *Request) { r.BootID = "a b" },
		"pluginVersion": func(r *Request) { r.PluginVersion = strings.Repeat("v", 129) },
		"ips":           func(r *Request) { r.IPs = make([]netip.Addr, maxIPs+1) },
		"ips[0]":        func(r *Request) { r.IPs[0] = netip.MustParseAddr("::ffff:10.1.0.5") },
		"ips[1]":        func(r *Request) { r.IPs[1] = netip.MustParseAddr("fe80::1%eth0") },
	} {
		r := pod()
		change(&r)
		if err := r.Validate("add"); err == nil || !strings.HasPrefix(err.Error(), name+": want ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDelNeedsNeitherNetnsNorPod(t *testing.T) {
	r := Request{Network: "kindnet", ContainerID: "5f2e9b0c", IfName: "eth0"}
	if err := r.Validate("del"); err != nil {
		t.Error(err)
	}
	if err := r.Validate("add"); err == nil {
		t.Error("add takes a request without netns and pod")
	}
}

func TestDecodeNamesTheField(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{`{"podName":7}`, "podName: want string, got number"},
		{`{"podname2":"x"}`, `unknown field "podname2"`},
		{`{"ips":["10.0.0"]}`, `ips[0]: want an address, got "10.0.0"`},
		{`{"ips":"10.0.0.1"}`, "ips: want a list of addresses"},
		{`{"podName":"a"}{}`, "text after the JSON object"},
		{`{"podName":"a"`, "not a whole JSON object"},
		{``, "not a whole JSON object"},
	} {
		err := decode([]byte(tc.text), new(Request))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("decode(%s): %v, want %q", tc.text, err, tc.want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	whole, err := json.Marshal(pod())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"network":"n","containerID":"c","ifName":"eth0"}`))
	f.Add([]byte(`{"ips":["10.0.0.1","::1%lo"],"netns":"/a/../b"}`))
	f.Add([]byte(`{"valid":[{"containerID":"c","ifName":"eth0"}],"network":"n"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var g gcRequest
		if decode(data, &g) == nil {
			_ = g.validate()
		}
		var r Request
		if decode(data, &r) != nil || r.Validate("add") != nil {
			return
		}
		if strings.ContainsAny(r.PodNamespace+r.PodName+r.PodUID+r.ContainerID, "\n/ \"") {
			t.Errorf("a name that is not one passed: %+v", r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var same Request
		if err := decode(again, &same); err != nil {
			t.Fatalf("decode what we encoded: %v", err)
		}
		if err := same.Validate("add"); err != nil {
			t.Fatalf("validate what we validated: %v", err)
		}
	})
}

// fake is a Handler that keeps what it was asked.
type fake struct {
	asked chan any
	reply Reply
	err   error
}

func (f *fake) Add(_ context.Context, r Request) (Reply, error) {
	f.asked <- r
	return f.reply, f.err
}

func (f *fake) Del(_ context.Context, r Request) error   { f.asked <- r; return f.err }
func (f *fake) Check(_ context.Context, r Request) error { f.asked <- r; return f.err }

func (f *fake) GC(_ context.Context, network string, valid []Attachment) error {
	f.asked <- gcRequest{network, valid}
	return f.err
}

var errFake = errors.New("enroll shop/web: netns holds none of the claimed addresses")
