// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"
)

// Where a node finds what the cluster gives it.
const (
	insideBinaries   = "/opt/kubernetes/bin"
	insideImages     = "/opt/kubernetes/images"
	insideKubernetes = "/etc/kubernetes"
	insidePlugins    = "/opt/cni/bin"
	insideNetworks   = "/etc/cni/net.d"
	pauseImage       = "localhost/pause:1"
)

// shared are a node's directories that are not on its overlay, by their names below
// nodeDir: containerd cannot lay overlays over an overlay, and what this machine has in
// the others is not the node's.
var shared = map[string]string{
	"kubernetes":  insideKubernetes,
	"cni-bin":     insidePlugins,
	"cni-net":     insideNetworks,
	"containerd":  "/var/lib/containerd",
	"kubelet":     "/var/lib/kubelet",
	"log":         "/var/log",
	"image-store": insideImages,
}

// restrict_oom_score_adj: without CAP_SYS_RESOURCE nobody can lower theirs, and every
// pod would fail. Runc is a field for unlimited to take its place.
var containerdConfig = template.Must(template.New("containerd.toml").Parse(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "` + pauseImage + `"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  ignore_deprecation_warnings = ["io.containerd.deprecation/cgroup-v1"]
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["` + insidePlugins + `"]
  conf_dir = "` + insideNetworks + `"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = "` + insideBinaries + `/{{.Runc}}"
    SystemdCgroup = false
`))

// failCgroupV1: false, or the kubelet refuses a machine with v1 hierarchies. crashLoopBackOff
// is 10 s, 20 s and so on up to 5 minutes by default, which tests would wait for.
var kubeletConfig = template.Must(template.New("kubelet.yaml").Parse(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: ` + insideKubernetes + `/ca.crt}
authorization: {mode: Webhook}
address: {{.Addr}}
healthzBindAddress: 127.0.0.1
clusterDNS: [{{.DNS}}]
clusterDomain: cluster.local
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
crashLoopBackOff: {maxContainerRestartPeriod: 4s}
makeIPTablesUtilChains: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: ""
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
`))

// conntrack is the kernel's, for all network namespaces: kube-proxy must not set it.
var proxyConfig = template.Must(template.New("proxy.yaml").Parse(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: {{.Name}}
clusterCIDR: {{.Pods}}
clientConnection: {kubeconfig: ` + insideKubernetes + `/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`))

// plugins are the CNI plugins that a node has before anybody installs another.
var plugins = []string{"bridge", "host-local", "loopback", "portmap"}

// makeNodeFiles makes a node's directories, and in them its programs' configuration, but
// for the kubeconfigs, and the CNI plugins.
func makeNodeFiles(c Config, n node) error {
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(c.nodeDir(n.Name, dir), 0o755); err != nil {
			return err
		}
	}
	for dir := range shared {
		if err := os.MkdirAll(c.nodeDir(n.Name, dir), 0o755); err != nil {
			return err
		}
	}
	runc, err := c.runc()
	if err != nil {
		return err
	}
	values := struct {
		Name, Runc string
		Addr, DNS  netip.Addr
		Pods       string
	}{n.Name, runc, n.Addrs[0], dnsService, podNetworks}
	for _, config := range []*template.Template{containerdConfig, kubeletConfig, proxyConfig} {
		var text bytes.Buffer
		if err := config.Execute(&text, values); err != nil {
			return err
		}
		if err := os.WriteFile(c.nodeFile(n, config.Name()), text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return c.copyToNode(n)
}

// copyToNode gives the node its images and its CNI plugins, which are the node's to
// replace.
func (c Config) copyToNode(n node) error {
	for _, image := range c.Images {
		if err := copyFile(image, c.nodeDir(n.Name, "image-store", filepath.Base(image)), 0o644); err != nil {
			return err
		}
	}
	for _, plugin := range plugins {
		if err := copyFile(c.binary(plugin), c.nodeDir(n.Name, "cni-bin", plugin), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// connectPods tells the node's CNI plugins its pods' prefixes. The node is ready once it
// has this. containerd must never see half of it.
func (c Config) connectPods(n node, pods dual[netip.Prefix]) error {
	text := fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "culvert-test",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}], [{"subnet": %q}]],
               "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, pods[0], pods[1])
	path := c.nodeDir(n.Name, "cni-net", "10-bridge.conflist")
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
