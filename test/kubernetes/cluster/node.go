// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The words by which the supervisor tells a node how far it is.
const (
	wordNetwork = "network" // eth0 is there
	wordAPI     = "api"     // the API server answers
)

// KubeletCgroup is the name of the kubelet's cgroup in a node's cgroup2.
const KubeletCgroup = "kubelet"

// runNode is the pid 1 of a machine: it makes the machine out of the namespaces that it
// was started in, runs the machine's programs, and ends with the supervisor.
//
// The calling goroutine must be the main one, locked to its thread: the cgroup
// namespace is made here, and the programs must be started by the thread that has it.
func runNode(c Config, name string) error {
	n := nodes[slices.IndexFunc(nodes, func(n node) bool { return n.Name == name })]
	if err := holdAlive(c.nodeDir(name, alive)); err != nil {
		return err
	}
	all, err := hierarchies()
	if err != nil {
		return err
	}
	if err := c.joinCgroups(name, all); err != nil {
		return err
	}
	if err := errors.Join(c.mountNode(n, all), unix.Sethostname([]byte(name))); err != nil {
		return err
	}
	if c.Cgroups == "v2" {
		if err := leaveRootCgroup(); err != nil {
			return err
		}
	}
	words := bufio.NewScanner(os.Stdin)
	if err := await(words, wordNetwork); err != nil {
		return err
	}
	if err := configureNode(n); err != nil {
		return err
	}
	return runPrograms(n, words)
}

// runPrograms runs containerd, and once there is an API server, the kubelet and
// kube-proxy, and goes on doing so.
func runPrograms(n node, words *bufio.Scanner) error {
	if err := os.Setenv("PATH", nodePath()); err != nil {
		return err
	}
	children := newProcesses(func(name string) string { return filepath.Join("/var/log", name+".log") })
	run := func(name string, args ...string) error {
		return children.keep(func() (*process, error) { return children.start(name, exec.Command(name, args...)) })
	}
	if err := run("containerd", "--config="+insideKubernetes+"/containerd.toml", "--log-level=warn"); err != nil {
		return err
	}
	if err := importImages(children); err != nil {
		return err
	}
	if err := await(words, wordAPI); err != nil {
		return err
	}
	err := errors.Join(
		children.keep(func() (*process, error) { return startKubelet(children, n) }),
		run("kube-proxy", "--config="+insideKubernetes+"/proxy.yaml"))
	if err != nil {
		return err
	}
	return children.restart()
}

// startKubelet starts the kubelet in a cgroup of its own, as systemd does on a machine:
// what tells the kubelet's connections from others goes by that.
func startKubelet(children *processes, n node) (*process, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("kubelet", "--config="+insideKubernetes+"/kubelet.yaml",
		"--kubeconfig="+insideKubernetes+"/kubelet.kubeconfig",
		"--hostname-override="+n.Name, "--node-ip="+n.Addrs[0].String()+","+n.Addrs[1].String())
	if i := slices.IndexFunc(all, func(h hierarchy) bool { return h.Type == "cgroup2" }); i >= 0 {
		path := filepath.Join(all[i].Point, KubeletCgroup)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, err
		}
		dir, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	return children.start("kubelet", cmd)
}

// importImages imports all images of the node once containerd listens.
func importImages(children *processes) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := until(ctx, func() error {
		conn, err := net.Dial("unix", "/run/containerd/containerd.sock")
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("containerd does not listen: %w", err)
	}
	images, err := filepath.Glob(insideImages + "/*.tar")
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := children.run("images", exec.Command("ctr", "--namespace=k8s.io", "images", "import", image)); err != nil {
			return fmt.Errorf("import image %s: %w", image, err)
		}
	}
	return nil
}

// await reads the next word of the supervisor. Without one there is no supervisor.
func await(words *bufio.Scanner, word string) error {
	if !words.Scan() || words.Text() != word {
		return fmt.Errorf("the supervisor said %q, and not %q", words.Text(), word)
	}
	return nil
}
