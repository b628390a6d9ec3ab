// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// boot starts a node's pid 1 in namespaces of its own, and plugs it in. A node that ran
// before finds its disk as it left it, and all else gone, as a machine does that was
// switched off and on.
func (s *supervisor) boot(n node) (*process, error) {
	if err := s.config.removeNodeCgroups(n); err != nil {
		return nil, err
	}
	cmd, err := s.config.command(roleNode, n.Name)
	if err != nil {
		return nil, err
	}
	words, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET |
		unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	child, err := s.children.start(n.Name, cmd)
	if err != nil {
		return nil, err
	}
	go s.lead(n, child, words)
	return child, nil
}

// lead plugs a node in that has started, tells it how far all is, and leads its pods'
// traffic. It tries until the node has ended: at first its veth may have the name of one
// that is still going.
func (s *supervisor) lead(n node, child *process, words io.WriteCloser) {
	defer words.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	go func() {
		<-child.done
		fail(child.end())
	}()
	for _, step := range []func() error{
		func() error { return plugIn(n, child.pid) },
		func() error { return say(words, wordNetwork) },
		s.api.ready,
		func() error { return say(words, wordAPI) },
		func() error { return s.route(n, child.pid) },
	} {
		if err := until(ctx, step); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", n.Name, err)
			return
		}
	}
}

func say(words io.Writer, word string) error {
	_, err := fmt.Fprintln(words, word)
	return err
}

// route routes between a node's pods and all others, once the nodes have their prefixes.
func (s *supervisor) route(n node, pid int) error {
	pods, err := s.api.podPrefixes()
	if err != nil {
		return err
	}
	return routePods(n, pid, pods)
}
