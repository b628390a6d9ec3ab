// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// The roles in which this program is started again.
const (
	roleSupervisor = "supervisor"
	roleNode       = "node"
)

// Role runs this process as what command started it as, if it did: then it does not
// return, but with an error. The program's main function must call it first, on a thread
// to which its init function has locked it.
func Role(args []string) error {
	if len(args) < 2 || args[0] != roleSupervisor && args[0] != roleNode {
		return nil
	}
	var c Config
	if err := json.Unmarshal([]byte(args[1]), &c); err != nil {
		return err
	}
	settle(c.Site)
	if args[0] == roleSupervisor {
		return runSupervisor(c)
	}
	return runNode(c, args[2])
}

// command is this program in another role.
func (c Config) command(role string, args ...string) (*exec.Cmd, error) {
	text, err := json.Marshal(c)
	return exec.Command("/proc/self/exe", append([]string{role, string(text)}, args...)...), err
}

// Up starts the cluster, tells out how it goes, and returns when both nodes are ready
// and CoreDNS answers. The cluster then lives until Down. What an earlier one of the
// name left behind is removed first. If ctx is done earlier, or starting fails, nothing
// is left but the cluster's directory with its logs.
func Up(ctx context.Context, c Config, out io.Writer) error {
	if err := c.validate(); err != nil {
		return err
	}
	lock, err := lockDir(c.dir())
	if err != nil {
		return err
	}
	defer lock.Close()
	if pid, err := holder(filepath.Join(c.dir(), alive)); err != nil {
		return err
	} else if pid != 0 {
		return fmt.Errorf("cluster %s is up already, as process %d", c.Name, pid)
	}
	if err := roomForWatches(); err != nil {
		return err
	}
	if err := errors.Join(c.removeCgroups(), removeContents(c.dir())); err != nil {
		return err
	}
	if err := c.supervise(ctx, out); err != nil {
		return errors.Join(err, c.removeCgroups())
	}
	return nil
}

// supervise starts the supervisor and follows it until the cluster is up.
func (c Config) supervise(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, err := c.command(roleSupervisor)
	if err != nil {
		return err
	}
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer ln.Close()
	socket, err := ln.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	words, err1 := cmd.StdinPipe()
	said, err2 := cmd.StdoutPipe()
	complaint, err3 := os.Create(filepath.Join(c.dir(), "supervisor.log"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	defer complaint.Close()
	cmd.Stderr = complaint
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	ready := follow(said, out)
	if stop() && ready {
		_, err = fmt.Fprintln(words, wordStay)
		return errors.Join(err, cmd.Process.Release())
	}
	err = cmd.Wait() // it has ended, or is being killed because ctx is done
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fmt.Errorf("the supervisor ended: %v\n%s\nlogs: %s", err, tail(complaint.Name()), filepath.Join(c.dir(), "log"))
}

// follow passes on what the supervisor says, and reports whether the cluster came up.
func follow(said io.Reader, out io.Writer) bool {
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if lines.Text() == wordReady {
			return true
		}
		fmt.Fprintln(out, lines.Text())
	}
	return false
}

// removeContents empties a directory. Its lock is the directory itself.
func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("remove what an earlier cluster left: %w", err)
		}
	}
	return nil
}
