// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processes starts and reaps the children of a pid 1. A pid 1 gets the orphans of its
// pid namespace too, so one place must wait for all: exec.Cmd's Wait is not for it.
type processes struct {
	log     func(name string) string // path of the log of the process of that name
	stopped func(name string) bool   // what keep started is to stay ended; optional
	ended   chan ended               // what keep started and has ended

	mu      sync.Mutex
	running map[int]*process // guarded by mu
}

// program starts a process that is to run for as long as its machine does.
type program func() (*process, error)

// ended is a process that should not have ended, and how to start it again.
type ended struct {
	*process
	again program
}

// process is a child. Its status may be read once done is closed.
type process struct {
	name   string
	log    string
	pid    int
	done   chan struct{}
	status syscall.WaitStatus
}

// newProcesses starts reaping, which ends with this process.
func newProcesses(log func(name string) string) *processes {
	p := &processes{log: log, ended: make(chan ended), running: make(map[int]*process)}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			p.reap()
		}
	}()
	return p
}

func (p *processes) reap() {
	for {
		var status syscall.WaitStatus
		p.mu.Lock() // a pid in running is that of a process
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if pid <= 0 || err != nil {
			p.mu.Unlock()
			return
		}
		child := p.running[pid]
		delete(p.running, pid)
		p.mu.Unlock()
		if child != nil {
			child.status = status
			close(child.done)
		}
	}
}

// start starts cmd with its output in a log. The calling thread's namespaces are the
// process's.
func (p *processes) start(name string, cmd *exec.Cmd) (*process, error) {
	path := p.log(name)
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p.mu.Lock() // or the process could end, and be reaped, before it is known
	defer p.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	child := &process{name: name, log: path, pid: cmd.Process.Pid, done: make(chan struct{})}
	p.running[child.pid] = child
	return child, cmd.Process.Release()
}

// run runs cmd to its end. If that is not a good one, the error has the end of its log.
func (p *processes) run(name string, cmd *exec.Cmd) error {
	child, err := p.start(name, cmd)
	if err != nil {
		return err
	}
	<-child.done
	if child.status.ExitStatus() != 0 {
		return child.end()
	}
	return nil
}

// keep starts a program and tells of its end.
func (p *processes) keep(start program) error {
	child, err := start()
	if err != nil {
		return err
	}
	go func() {
		<-child.done
		p.ended <- ended{child, start}
	}()
	return nil
}

// restart starts again what keep started and has ended, a second later, as systemd does
// on a machine. It returns when that fails. Programs that must be started by one thread
// are started by the caller's.
func (p *processes) restart() error {
	for e := range p.ended {
		fmt.Fprintln(os.Stderr, e.end())
		time.Sleep(time.Second)
		if p.stopped != nil && p.stopped(e.name) {
			go p.mayStart(e)
		} else if err := p.keep(e.again); err != nil {
			return err
		}
	}
	return nil
}

// end says how the process ended. It may be called once done is closed.
func (c *process) end() error {
	how := fmt.Sprintf("exit status %d", c.status.ExitStatus())
	if c.status.Signaled() {
		how = c.status.Signal().String()
	}
	return fmt.Errorf("%s ended: %s\n%s", c.name, how, tail(c.log))
}

// tail is the last of a log, for an error to show.
func tail(path string) string {
	const most = 4 << 10
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
