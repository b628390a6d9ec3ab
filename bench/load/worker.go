// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/elliptic"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// worker does what it is told, one order after the other.
type worker struct {
	server  server
	held    []socket
	tunnels []*tls.Conn
}

// hello is the first that a worker says.
type hello struct {
	PID        int
	Congestion string // control, of new connections
}

// Work serves the port and does what comes from the unix socket at path, until
// that closes.
func Work(path string) error {
	// A goroutine in a blocking call keeps its P until it is noticed: with one
	// for each, no thread waits for another.
	runtime.GOMAXPROCS(256)
	const files = 1 << 17
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	ln, err := listen(Port)
	if err != nil {
		return err
	}
	var w worker
	go w.server.serve(ln)
	return w.obey(conn)
}

func (w *worker) obey(orders io.ReadWriter) error {
	say, hear := json.NewEncoder(orders), json.NewDecoder(orders)
	if err := say.Encode(hello{os.Getpid(), congestion()}); err != nil {
		return err
	}
	for {
		var o Order
		if err := hear.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		before := cpuTime()
		a, err := w.do(o.complete())
		a.CPU = cpuTime() - before
		if err != nil {
			a.Error = err.Error()
		}
		if err := say.Encode(a); err != nil {
			return err
		}
	}
}

// congestion is the control of a new connection: a route may name another than
// the netns.
func congestion() string {
	conn, err := connect(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), Port))
	if err != nil {
		return "unknown"
	}
	defer conn.close()
	name, err := unix.GetsockoptString(int(conn), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		return "unknown"
	}
	return name
}

func (w *worker) do(o Order) (Answer, error) {
	switch o.Kind {
	case Bulk:
		return bulk(o)
	case RTT:
		return rtt(o)
	case Open:
		return open(o)
	case First:
		return first(o)
	case Prove:
		return proof(o)
	case Handshakes:
		return handshakes(o)
	case Hold:
		conns, err := openReady(o, o.Streams, hold, 0)
		w.held = append(w.held, conns...)
		return Answer{Count: len(conns)}, err
	case Tunnels:
		return w.openTunnels(o)
	case Stall:
		return w.stall(o)
	case Chains:
		return refusedHandshakes(o, elliptic.P521(), chainLength)
	case Strangers:
		return refusedHandshakes(o, elliptic.P256(), 1)
	case Unread:
		return w.unread(o)
	case Refused, Dropped:
		return hurl(o)
	case Gauge:
		return gauge()
	case Release:
		return Answer{}, w.release()
	}
	return Answer{}, fmt.Errorf("unknown order %q", o.Kind)
}

func (w *worker) release() error {
	closeAll(w.held)
	for _, t := range w.tunnels {
		t.NetConn().Close()
	}
	w.held, w.tunnels = nil, nil
	w.server.release()
	return nil
}
