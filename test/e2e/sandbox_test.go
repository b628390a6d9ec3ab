// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// Multus asks the plugin once for each network of a sandbox.
func TestASecondNetworkCutsNoConnection(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	conn, err := client.Dial(s.ctx, "tcp4", server.At("tcp4", 8080))
	s.must(err)
	s.must(conn.Ping(s.ctx, "before"))

	s.must(client.Attach(s.ctx, "storage", "net1"))
	s.must(client.Check(s.ctx))
	s.must(conn.Ping(s.ctx, "with a second network"))
	s.reached(client.Place, "tcp4", server, 8080)

	s.must(client.Detach(s.ctx, "storage", "net1"))
	s.must(client.Check(s.ctx))
	s.must(conn.Ping(s.ctx, "without it"))
	s.reached(client.Place, "tcp4", server, 8080)

	before := s.census(s.one)
	late := s.pod(s.one, "late", nil)
	s.must(late.Attach(s.ctx, "storage", "net1"))
	s.must(late.Detach(s.ctx, "storage", "net1"))
	s.must(late.Delete(s.ctx))
	s.wantNothingNew(s.one, before)
}

// What ztunnel knew is gone, and its pods are not.
func TestALostStateDirectoryReleasesNobody(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.must(s.one.Ztunnel.Kill())
	s.must(os.RemoveAll(filepath.Join(s.one.State, "sandboxes")))
	s.refused(client.Place, "tcp4", server, 8080)

	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(client.AwaitEnrolled(s.ctx)) // by its processes
	s.overBoth(func(s *story, network string) { s.reached(client.Place, network, server, 8080) })
	s.must(client.Check(s.ctx))
}

// An object that vanished is not a label that says no.
func TestAVanishedNamespaceReleasesNobody(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.must(s.Lab.Delete("Namespace", "", s.namespace))
	s.must(s.Settle(s.ctx))
	s.overBoth(func(s *story, network string) {
		s.reached(client.Place, network, server, 8080)
		s.refused(s.Outside.Place, network, server, 8080)
	})

	// A ztunnel that never knew better sends nothing in plaintext either.
	s.must(s.one.Ztunnel.Kill())
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(s.Settle(s.ctx))
	s.refused(client.Place, "tcp4", server, 8080)
	_, err := s.one.Pod(s.ctx, lab.PodSpec{Namespace: s.namespace, Name: "late"})
	s.blocked(err, "namespace "+s.namespace+" is not known on node")

	s.must(s.Namespace(s.namespace, map[string]string{"culvert.dev/mesh": "enabled"}))
	s.must(client.AwaitEnrolled(s.ctx))
	s.reached(client.Place, "tcp4", server, 8080)
	s.must(s.Namespace(s.namespace, nil)) // that is one
	s.must(client.AwaitOutside(s.ctx))
}

// The kubelet gives CNI the UID that it made of the pod's file.
func TestAStaticPodIsOfTheMesh(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	static, err := s.one.Pod(s.ctx, lab.PodSpec{Namespace: s.namespace, Name: "static-node1", Static: true})
	s.must(err)
	s.must(static.Check(s.ctx))
	s.reached(static.Place, "tcp4", server, 8080)
	s.record(s.two, "direction", "inbound", "src.identity", static.SPIFFEID("cluster.local"), "result", "ok")

	s.must(s.one.Ztunnel.Kill())
	s.must(os.RemoveAll(filepath.Join(s.one.State, "sandboxes")))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{}))
	s.must(static.AwaitEnrolled(s.ctx)) // its cgroup bears the kubelet's UID, too
	s.reached(static.Place, "tcp4", server, 8080)
}

// A -cgroup beside the pods' would steer nothing of them.
func TestAPodOutsideOurCgroupMayNotStart(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	_, err := s.one.Pod(s.ctx, lab.PodSpec{Namespace: s.namespace, Name: "astray", Astray: true})
	s.blocked(err, "pod "+s.namespace+"/astray may not start", "is not below -cgroup "+s.one.Cgroup, filepath.Join("astray", "pods"))
	s.must(s.Settle(s.ctx))
	plain := in(t, s.Lab)
	_, err = s.one.Pod(s.ctx, lab.PodSpec{Namespace: plain.namespace, Name: "astray", Astray: true})
	s.must(err) // none of ours
}
