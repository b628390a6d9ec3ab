// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process of the lab, with its output in a file.
type Process struct {
	Name string
	Log  string // path of the file with its standard error, and output if it has no other

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, once done is closed
}

// start starts cmd in place, as a child that dies with this process.
func (l *Lab) start(place *Place, cmd *exec.Cmd) error {
	cgroup, err := os.Open(place.Cgroup)
	if err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	defer cgroup.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
		Pdeathsig: unix.SIGKILL,
		Setpgid:   true, // Ctrl-C is the owner's to handle
	}
	if err := l.thread.in(place.ns.fd, cmd.Start); err != nil {
		return fmt.Errorf("start %s in %s: %w", filepath.Base(cmd.Path), place.Cgroup, err)
	}
	return nil
}

func (l *Lab) startLogged(place *Place, name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(l.run.dir, "log", name+".log"), cmd: cmd, done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if cmd.Stderr == nil {
		cmd.Stderr = log
	}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if err := l.start(place, cmd); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (l *Lab) runIn(ctx context.Context, place *Place, argv []string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // a child of it may hold the pipe
	if err := l.start(place, cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends the process a signal.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop sends SIGTERM and awaits the end, which it returns unless it was good.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", p.Name, context.Cause(ctx))
	}
	if p.err != nil {
		return fmt.Errorf("stop %s: %w", p.Name, p.err)
	}
	return nil
}

// Kill sends SIGKILL and awaits the end.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// tail is the last of a log, for an error to show.
func tail(path string) string {
	const most = 8 << 10
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	text, _ := io.ReadAll(f)
	return strings.TrimSpace(string(text))
}

// Logs are the last words of every process of the lab, for a failed test.
func (l *Lab) Logs() string {
	files, _ := filepath.Glob(filepath.Join(l.run.dir, "log", "*.log"))
	var all strings.Builder
	for _, f := range files {
		if text := tail(f); text != "" {
			fmt.Fprintf(&all, "--- %s\n%s\n", filepath.Base(f), text)
		}
	}
	return all.String()
}
