// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/test/lab"
)

// tunnelPort is where HBONE is accepted.
const tunnelPort = 15008

// trio is the pods of a mesh: two nodes, and one more on the first.
type trio struct{ client, server, local *place }

// sever resets the tunnels of the client's pod.
func (t trio) sever() error { return t.client.pod.Sever(tunnelPort) }

func (t trio) pods() []*lab.Pod { return []*lab.Pod{t.client.pod, t.local.pod, t.server.pod} }

// mesh is two nodes with their proxies.
type mesh struct {
	trio
	near, far int
}

// trio starts the pods.
func (w *world) trio(ctx context.Context, name string, nodes []*lab.Node, unmeshed bool) (t trio, err error) {
	for _, p := range []struct {
		place **place
		role  string
		node  *lab.Node
	}{{&t.client, "client", nodes[0]}, {&t.local, "local", nodes[0]}, {&t.server, "server", nodes[1]}} {
		spec := lab.PodSpec{Namespace: meshed, Name: name + "-" + p.role, ServiceAccount: name + "-" + p.role, Unmeshed: unmeshed}
		if *p.place, err = w.pod(ctx, p.node, spec); err != nil {
			return t, err
		}
	}
	return t, nil
}

// variants are our ztunnel otherwise than by default. Without AVX2 there is no
// VAES to it: its crypto is crypto/cipher's, by AES-NI.
var variants = map[string]struct {
	lab.ZtunnelOptions
	about string
	brief bool
}{
	oursStd:   {lab.ZtunnelOptions{Args: []string{"-tls-records=std"}}, "-tls-records=std", false},
	oursAES:   {lab.ZtunnelOptions{Tags: "aes256"}, "-tags aes256: the cipher that Istio's ztunnel takes", true},
	oursAESNI: {lab.ZtunnelOptions{Env: []string{"GODEBUG=cpu.avx2=off"}}, "GODEBUG=cpu.avx2=off: crypto/cipher with AES-NI, no VAES", true},
	oursPure:  {lab.ZtunnelOptions{Tags: "purego"}, "-tags purego: Go's own AES is without assembler then too", true},
}

// buildOurs makes the columns of our ztunnel in the site's variant.
func (w *world) buildOurs(ctx context.Context, s site, nodes []*lab.Node) error {
	var about []string
	variant, ok := variants[s.name]
	if ok {
		about = []string{variant.about}
		for _, n := range nodes {
			if err := n.Ztunnel.Stop(ctx); err != nil {
				return err
			}
			if err := n.StartZtunnel(ctx, variant.ZtunnelOptions); err != nil {
				return err
			}
		}
	}
	t, err := w.trio(ctx, s.name, nodes, false)
	if err != nil {
		return err
	}
	near, far := nodes[0].Ztunnel.PID(), nodes[1].Ztunnel.PID()
	tunnel, err := w.mint(s.name)
	if err != nil {
		return err
	}
	if s.name == ours {
		w.ours = &mesh{t, near, far}
	}
	w.peers = append(w.peers, &peer{
		name: s.name, near: t.client, far: t.server, client: t.client.load, server: t.server.load, to: t.server.pod.At("tcp4", load.Port),
		proxies: []int{near, far}, hops: 3, crypto: true, brief: variant.brief, about: about,
		gate: t.server.pod.At("tcp4", tunnelPort), tunnel: tunnel, gateway: far, mallocs: scrape(nodes), sever: t.sever,
	}, &peer{
		name: s.name + sameNode, client: t.client.load, server: t.local.load, to: t.local.pod.At("tcp4", load.Port),
		proxies: []int{near}, hops: 2, about: about, mallocs: scrape(nodes[:1]),
	})
	return nil
}

// mint makes an identity of the mesh for a peer that is the load itself.
func (w *world) mint(name string) (load.Credential, error) {
	cert, _, err := w.lab.Identity.Mint("spiffe://cluster.local/ns/"+meshed+"/sa/"+name+"-client", certificateLife)
	if err != nil {
		return load.Credential{}, err
	}
	c, err := load.WriteCredential(w.keys.dir, name, cert)
	c.Roots = w.lab.Identity.Root
	return c, err
}

// scrape adds up the allocations that the nodes' metrics tell. To tell them
// takes some, which are not of the load: see allocations.
func scrape(nodes []*lab.Node) func(context.Context) (uint64, error) {
	return func(ctx context.Context) (sum uint64, err error) {
		for _, n := range nodes {
			_, text, err := n.HTTPGet(ctx, "http://127.0.0.1:15020/metrics")
			if err != nil {
				return 0, err
			}
			var mallocs float64
			_, rest, ok := strings.Cut(text, "\ngo_memstats_mallocs_total ")
			if _, err := fmt.Sscan(rest, &mallocs); !ok || err != nil {
				return 0, fmt.Errorf("the metrics of %s tell no allocations", n.Name)
			}
			sum += uint64(mallocs)
		}
		return sum, nil
	}
}
