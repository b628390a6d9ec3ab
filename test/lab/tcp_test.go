// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// twoServers is a pod whose agent echoes at two ports, and a client beside it.
func twoServers(t *testing.T) (client, server *lab.Pod) {
	l := newLab(t, lab.Options{Nodes: 1, Unmeshed: true})
	must(t, l.Namespace("shop", nil))
	client = newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "client"})
	server = newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "server"})
	for _, port := range []uint16{8080, 8081} {
		_, err := server.Serve(t.Context(), agent.Echo, port)
		must(t, err)
	}
	return client, server
}

func TestSeveredConnectionsAreResetAndOthersAreNot(t *testing.T) {
	client, server := twoServers(t)
	severed, err := client.Dial(t.Context(), "tcp4", server.At("tcp4", 8080))
	must(t, err)
	other, err := client.Dial(t.Context(), "tcp4", server.At("tcp4", 8081))
	must(t, err)
	err = client.Sever(8080)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return // without CONFIG_INET_DIAG_DESTROY
	}
	must(t, err)
	if err := severed.Ping(t.Context(), "hello"); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("a severed connection: %v", err)
	}
	must(t, other.Ping(t.Context(), "hello"))
}

func TestAPodsConnectionsUseCubicIfTheKernelHasIt(t *testing.T) {
	have, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	must(t, err)
	client, server := twoServers(t)
	must(t, client.Cubic())
	conn, err := client.Dial(t.Context(), "tcp4", server.At("tcp4", 8080))
	must(t, err)
	must(t, conn.Ping(t.Context(), "hello"))
	name, err := conn.Option(t.Context(), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	must(t, err)
	// The first four letters, as an integer.
	if want := binary.NativeEndian.Uint32([]byte("cubi")); strings.Contains(string(have), "cubic") && uint32(name) != want {
		t.Errorf("congestion control %#x, want %#x", name, want)
	}
}
