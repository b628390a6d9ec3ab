// SPDX-License-Identifier: Apache-2.0

package clitest

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Trial answers for /verify as a node's socket does, and for what Ztunnel answers.
type Trial struct {
	Ztunnel
	Sent     map[string]any
	Arrived  bool
	Findings map[string]any
	Refuses  string // a step, as begin, that fails
}

// ServeHTTP is part of http.Handler.
func (n Trial) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/verify" {
		n.Ztunnel.ServeHTTP(w, r)
		return
	}
	do := r.URL.Query().Get("do")
	answers := map[string]any{"begin": map[string]string{"id": "1"}, "send": n.Sent, "await": map[string]bool{"arrived": n.Arrived}, "end": n.Findings}
	if r.Method != http.MethodPost || answers[do] == nil || do == n.Refuses {
		http.Error(w, do+": no", http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(answers[do]) // a client that went is no matter
}

// ServeSocket serves on a unix socket until the test ends.
func ServeSocket(t testing.TB, path string, h http.Handler) error {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := httptest.NewUnstartedServer(h)
	server.Listener.Close()
	server.Listener = ln
	server.Start()
	t.Cleanup(server.Close)
	return nil
}

// TrialPair is Pair while web-1 has a marked connection to db-1, which is on no wire in
// plaintext.
func TrialPair() (one, two Trial) {
	near, far := Pair()
	tunnel := func(of Ztunnel) map[string]any {
		return map[string]any{"cipher": "TLS_AES_128_GCM_SHA256", "group": "X25519MLKEM768", "peerSerial": of.Held[0].Leaf.Cert.SerialNumber.Text(16)}
	}
	near.Pods["uid-web-1"].(map[string]any)["connections"] = map[string]any{"outbound": []any{map[string]any{
		"direction": "outbound", "path": "tunnel", "protocol": "HBONE", "src": "10.0.0.7:4711", "dst": "10.0.1.8:5432",
		"srcIdentity": PairID("web"), "dstIdentity": PairID("db"), "tunnel": tunnel(far),
	}}}
	far.Pods["uid-db-1"].(map[string]any)["connections"] = map[string]any{"inbound": []any{map[string]any{
		"direction": "inbound", "path": "tunnel", "protocol": "HBONE", "src": "10.0.0.7:50000", "dst": "10.0.1.8:5432",
		"srcIdentity": PairID("web"), "dstIdentity": PairID("db"), "tunnel": tunnel(near),
	}}}
	one = Trial{Ztunnel: near, Sent: map[string]any{"from": "10.0.0.7:4711", "to": "10.0.1.8:5432"}, Findings: unmarked("veth1a2b")}
	two = Trial{Ztunnel: far, Arrived: true, Findings: unmarked("veth3c4d")}
	return one, two
}

// Devices are those of a network namespace that was watched.
func Devices(devices ...map[string]any) map[string]any {
	return map[string]any{"devices": devices, "watched": 7, "dropped": 0, "control": true}
}

// Marked is a device on which packets had the mark in plaintext.
func Marked(name string, loopback bool) map[string]any {
	return map[string]any{"name": name, "loopback": loopback, "packets": 4, "tunnel": 0, "marked": 1, "first": map[string]any{
		"time": Now, "from": "10.0.0.7:4711", "to": "10.0.1.8:5432", "bytes": 101,
	}}
}

func unmarked(veth string) map[string]any {
	sealed := func(name string) map[string]any {
		return map[string]any{"name": name, "packets": 13, "tunnel": 13, "marked": 0}
	}
	return map[string]any{"node": Devices(sealed("eth0"), sealed(veth)), "pod": Devices(sealed("eth0"), Marked("lo", true))}
}
