// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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
}

// runSupervisor brings the cluster up, and runs it until it is killed: the kernel ends
// with it all that it started.
func runSupervisor(c Config) error {
	if err := errors.Join(holdAlive(filepath.Join(c.dir(), alive)), share(c.Binaries)); err != nil {
		return err
	}
	stay := make(chan struct{})
	go dieUntold(stay)
	s := &supervisor{config: c, started: time.Now(), children: newProcesses(c.log)}
	s.children.stopped = func(name string) bool {
		_, err := os.Stat(c.stoppedPath(name))
		return err == nil
	}
	if err := s.start(); err != nil {
		return err
	}
	fmt.Println(wordReady)
	<-stay
	go s.children.obey()
	return s.children.restart()
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

// start brings the cluster up. It gives up when a program ends meanwhile.
func (s *supervisor) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	started := make(chan struct{})
	defer close(started)
	go func() {
		select {
		case e := <-s.children.ended:
			fail(e.end())
		case <-started:
		}
	}()
	if err := s.prepare(); err != nil {
		return err
	}
	if err := s.startPrograms(ctx); err != nil {
		return err
	}
	return s.awaitReady(ctx)
}

// startPrograms starts all programs, as fast as they allow: the nodes' containerds start,
// and get their images, while the API server does.
func (s *supervisor) startPrograms(ctx context.Context) error {
	c := s.config
	if err := errors.Join(s.run("etcd", c.etcd), s.run("kube-apiserver", c.apiserver)); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := s.children.keep(func() (*process, error) { return s.boot(n) }); err != nil {
			return err
		}
	}
	s.say("etcd, kube-apiserver and the nodes' containerds are starting")
	if err := s.await(ctx, "the API server answers", s.api.ready); err != nil {
		return err
	}
	return errors.Join(s.run("kube-controller-manager", c.controllers), s.run("kube-scheduler", c.scheduler))
}

// awaitReady connects the pods' networks, starts CoreDNS, and waits until all is ready.
func (s *supervisor) awaitReady(ctx context.Context) error {
	if err := s.await(ctx, "both nodes have registered", s.connect); err != nil {
		return err
	}
	apply := s.config.kubectl("apply", "--filename="+filepath.Join(s.config.dir(), "addons.yaml"))
	if err := s.children.run("addons", apply); err != nil {
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

// run runs a program of the control plane.
func (s *supervisor) run(name string, command func() *exec.Cmd) error {
	return s.children.keep(func() (*process, error) { return s.children.start(name, command()) })
}

// connect lets the nodes' CNI plugins give pods addresses, once the controllers have given
// each node its prefixes.
func (s *supervisor) connect() error {
	pods, err := s.api.podPrefixes()
	if err != nil {
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
