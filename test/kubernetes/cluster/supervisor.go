// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The words between Up and the supervisor, on the supervisor's standard input and
// output. All else that the supervisor says there is for people.
const (
	wordReady = "ready" // the supervisor's last: the cluster is up
	wordStay  = "stay"  // the answer: live on when I am gone
)

// relayFD is the descriptor at which the supervisor gets the relay's listener.
const relayFD = 3

// startTime is how long a cluster may take to come up on a machine that is busy.
const startTime = 5 * time.Minute

//go:embed addons.yaml
var addons string

// supervisor is the cluster's pid 1.
type supervisor struct {
	config   Config
	api      *api
	children *processes
	started  time.Time
	nodes    map[string]*machine
	fail     context.CancelCauseFunc // ends the start
}

// machine is a node as the supervisor knows it.
type machine struct {
	*process
	words io.Writer // to its standard input
}

// runSupervisor brings the cluster up, and runs it until it is killed.
func runSupervisor(c Config) error {
	if err := holdAlive(filepath.Join(c.dir(), alive)); err != nil {
		return err
	}
	stay := make(chan struct{})
	go dieUntold(stay)
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	s := &supervisor{config: c, started: time.Now(), nodes: make(map[string]*machine), fail: fail}
	if err := s.start(ctx); err != nil {
		return err
	}
	fmt.Println(wordReady)
	<-stay
	select {} // the kernel ends all that we started with us
}

// dieUntold ends the supervisor when its standard input does, unless it was told to stay:
// whoever started it is dead then.
func dieUntold(stay chan<- struct{}) {
	words := bufio.NewScanner(os.Stdin)
	if words.Scan() && words.Text() == wordStay {
		close(stay)
		return
	}
	os.Exit(1)
}

// start makes the cluster, as fast as its parts allow: the nodes' containerds start, and
// get their images, while the API server does.
func (s *supervisor) start(ctx context.Context) error {
	if err := s.prepare(); err != nil {
		return err
	}
	s.children = newProcesses(s.config.log)
	for name, cmd := range map[string]*exec.Cmd{"etcd": s.config.etcd(), "kube-apiserver": s.config.apiserver()} {
		if err := s.run(name, cmd); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := s.startNode(n); err != nil {
			return err
		}
	}
	s.say("etcd, kube-apiserver and the nodes' containerds are starting")
	if err := s.await(ctx, "the API server answers", s.api.ready); err != nil {
		return err
	}
	for name, cmd := range map[string]*exec.Cmd{"kube-controller-manager": s.config.controllers(), "kube-scheduler": s.config.scheduler()} {
		if err := s.run(name, cmd); err != nil {
			return err
		}
	}
	for _, machine := range s.nodes {
		fmt.Fprintln(machine.words, wordAPI)
	}
	if err := s.await(ctx, "both nodes have registered", s.joinNodes); err != nil {
		return err
	}
	if err := s.children.run("addons", s.config.kubectl("apply", "--filename="+filepath.Join(s.config.dir(), "addons.yaml"))); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := s.await(ctx, n.Name+" is ready", func() error { return s.api.nodeReady(n.Name) }); err != nil {
			return err
		}
	}
	return s.await(ctx, "CoreDNS answers", func() error { return s.api.deploymentReady("kube-system", "coredns") })
}

// prepare makes what processes are started with: mounts and the bridge, keys and files.
func (s *supervisor) prepare() error {
	c := s.config
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
	)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := makeBridge(); err != nil {
		return err
	}
	for _, dir := range []string{"pki", "log"} {
		if err := os.Mkdir(filepath.Join(c.dir(), dir), 0o755); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := makeNodeFiles(c, n); err != nil {
			return err
		}
	}
	ln, err := net.FileListener(os.NewFile(relayFD, "relay"))
	if err != nil {
		return err
	}
	if err := newPKI(c, ln.Addr().String()); err != nil {
		return err
	}
	go relay(ln)
	if s.api, err = newAPI(c); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir(), "addons.yaml"), []byte(addons), 0o644)
}

// run starts a program of the control plane.
func (s *supervisor) run(name string, cmd *exec.Cmd) error {
	child, err := s.children.start(name, cmd)
	if err != nil {
		return err
	}
	s.watch(child)
	return nil
}

// watch tells of a program's end, which none should have, and ends the start with it.
func (s *supervisor) watch(child *process) {
	go func() {
		<-child.done
		err := child.ended()
		fmt.Fprintln(os.Stderr, err)
		s.fail(err)
	}()
}

// startNode starts a node's pid 1 in namespaces of its own, and plugs it in.
func (s *supervisor) startNode(n node) error {
	cmd, err := s.config.command(roleNode, n.Name)
	if err != nil {
		return err
	}
	words, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET |
		unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	child, err := s.children.start(n.Name, cmd)
	if err != nil {
		return err
	}
	s.watch(child)
	s.nodes[n.Name] = &machine{child, words}
	if err := plugIn(n, child.pid); err != nil {
		return err
	}
	_, err = fmt.Fprintln(words, wordNetwork)
	return err
}

// joinNodes connects the nodes' pods, once the controllers have given each node a prefix.
func (s *supervisor) joinNodes() error {
	pods, err := s.api.podNetworks()
	if err != nil {
		return err
	}
	pids := make(map[string]int)
	for name, machine := range s.nodes {
		pids[name] = machine.pid
	}
	if err := routePods(pids, pods); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := s.config.connectPods(n, pods[n.Name]); err != nil {
			return err
		}
	}
	return nil
}

// await waits until done has no error, and says so.
func (s *supervisor) await(ctx context.Context, what string, done func() error) error {
	if err := until(ctx, done); err != nil {
		return fmt.Errorf("waited until %s: %w", what, err)
	}
	s.say(what)
	return nil
}

func (s *supervisor) say(what string) {
	fmt.Printf("%5.1f s  %s\n", time.Since(s.started).Seconds(), what)
}
