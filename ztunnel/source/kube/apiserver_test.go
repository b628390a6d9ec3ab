// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

// apiServer can be stopped and started.
type apiServer struct {
	*kubetest.Server
	t       *testing.T
	address string
	http    *http.Server
}

func startServer(t *testing.T) *apiServer {
	s := &apiServer{Server: kubetest.New(), t: t, address: ownAddr() + ":6443"}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// ownAddr is a loopback address at which no other test listens, even while we do not.
func ownAddr() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}

// start listens, at the same address as before.
func (s *apiServer) start() {
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.http = &http.Server{Handler: s.Server}
	go s.http.Serve(ln)
}

// stop cuts every connection and refuses new ones.
func (s *apiServer) stop() { s.http.Close() }

// kubeconfig writes one that leads to the server.
func (s *apiServer) kubeconfig() string {
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, kubetest.Kubeconfig(s.address), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}
