// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os/exec"
	"path/filepath"
)

// etcd keeps the cluster's objects. Nobody needs them after a power cut, so it does not
// wait for the disk.
func (c Config) etcd() *exec.Cmd {
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	return exec.Command(c.binary("etcd"),
		"--name=etcd",
		"--data-dir="+filepath.Join(c.dir(), "etcd"),
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster=etcd="+peer,
		"--unsafe-no-fsync",
		"--log-level=warn")
}

// apiserver reaches kubelets by address: their names are in no DNS.
func (c Config) apiserver() *exec.Cmd {
	return exec.Command(c.binary("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+controlPlane[0].Addr().String(),
		"--client-ca-file="+c.pki("ca.crt"),
		"--tls-cert-file="+c.pki("apiserver.crt"),
		"--tls-private-key-file="+c.pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.pki("tokens.pub"),
		"--service-account-signing-key-file="+c.pki("tokens.key"),
		"--kubelet-client-certificate="+c.pki("kubelet-client.crt"),
		"--kubelet-client-key="+c.pki("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-cluster-ip-range="+serviceNetworks,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--profiling=false")
}

// controllers gives each node a part of the pods' networks. A node that says nothing is
// given up after 20 s: tests take nodes away. At 20 requests a second, which is the
// default, the controllers' ServiceAccounts alone would take six seconds of a start.
func (c Config) controllers() *exec.Cmd {
	return exec.Command(c.binary("kube-controller-manager"),
		"--kubeconfig="+c.pki("controllers.kubeconfig"),
		"--authentication-kubeconfig="+c.pki("controllers.kubeconfig"),
		"--authorization-kubeconfig="+c.pki("controllers.kubeconfig"),
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+c.pki("tokens.key"),
		"--root-ca-file="+c.pki("ca.crt"),
		"--cluster-signing-cert-file="+c.pki("ca.crt"),
		"--cluster-signing-key-file="+c.pki("ca.key"),
		"--allocate-node-cidrs=true",
		"--cluster-cidr="+podNetworks,
		"--node-cidr-mask-size-ipv4=24",
		"--node-cidr-mask-size-ipv6=64",
		"--node-monitor-grace-period=20s",
		"--kube-api-qps=500", "--kube-api-burst=1000")
}

func (c Config) scheduler() *exec.Cmd {
	return exec.Command(c.binary("kube-scheduler"),
		"--kubeconfig="+c.pki("scheduler.kubeconfig"),
		"--authentication-kubeconfig="+c.pki("scheduler.kubeconfig"),
		"--authorization-kubeconfig="+c.pki("scheduler.kubeconfig"),
		"--leader-elect=false")
}

func (c Config) kubectl(args ...string) *exec.Cmd {
	return exec.Command(c.binary("kubectl"), append([]string{"--kubeconfig=" + c.pki("admin.kubeconfig")}, args...)...)
}
