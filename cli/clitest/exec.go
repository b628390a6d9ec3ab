// SPDX-License-Identifier: Apache-2.0

package clitest

import (
	"encoding/json"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Exec has a command in a pod, namespace/name, answer by run, which returns what it writes
// to stdout, or to stderr if it fails.
func (k *Kubernetes) Exec(pod string, run func(command []string) (stdout, stderr string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.commands == nil {
		k.commands = map[string]func([]string) (string, string){}
	}
	k.commands[pod] = run
}

// exec is what the kubelet of the pod's node does, by the protocol v4.channel.k8s.io.
func (k *Kubernetes) exec(w http.ResponseWriter, r *http.Request, pod string) {
	k.mu.Lock()
	run := k.commands[pod]
	k.mu.Unlock()
	if run == nil || r.URL.Query().Get("container") != "ztunnel" {
		http.Error(w, "container not found", http.StatusNotFound)
		return
	}
	conn, byType := upgrade(w, r, "v4.channel.k8s.io", 3)
	if conn == nil {
		return
	}
	defer conn.Close()
	stdout, stderr := run(r.URL.Query()["command"])
	fmt.Fprint(byType[corev1.StreamTypeStdout], stdout)
	fmt.Fprint(byType[corev1.StreamTypeStderr], stderr)
	if stderr != "" {
		_ = json.NewEncoder(byType[corev1.StreamTypeError]).Encode(metav1.Status{ // a client that went is no matter
			Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: "command terminated with exit code 1",
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: "1"}}},
		})
	}
	for _, s := range byType {
		s.Close()
	}
	<-conn.CloseChan()
}

// upgrade answers by SPDY in a protocol, and waits for the client's n streams, by their
// type. Without a connection there is nothing left to do.
func upgrade(w http.ResponseWriter, r *http.Request, protocol string, n int) (httpstream.Connection, map[string]httpstream.Stream) {
	if _, err := httpstream.Handshake(r, w, []string{protocol}); err != nil {
		return nil, nil // it has answered: a WebSocket is not understood
	}
	streams := make(chan httpstream.Stream, n)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return nil, nil
	}
	byType := map[string]httpstream.Stream{}
	for len(byType) < n {
		select {
		case s := <-streams:
			byType[s.Headers().Get(corev1.StreamType)] = s
		case <-conn.CloseChan():
			conn.Close()
			return nil, nil
		}
	}
	return conn, byType
}
