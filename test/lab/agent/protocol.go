// SPDX-License-Identifier: Apache-2.0

// Package agent lets a test own sockets in another process. Steering goes by
// the cgroup and netns of the process that calls connect(), so a test that
// wants a pod's connection must have it opened in the pod: an agent runs there
// and is told what to do in JSON lines on its standard input.
//
// Serve is the agent, Client the test's end of it, Conn and Listener sockets
// that live in the agent's process. What failed there comes back as an *Error
// that errors.Is finds the errno in.
package agent

import (
	"encoding/json"
	"net/netip"
	"time"
)

// request is one line to the agent. Requests overlap: each is answered when
// it is done, under its own ID.
type request struct {
	ID   uint64          `json:"id"`
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

// response is one line from the agent.
type response struct {
	ID      uint64          `json:"id"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *Error          `json:"error,omitempty"`
	Elapsed time.Duration   `json:"elapsed"`
}

// Option is one integer socket option, set before bind and connect.
type Option struct {
	Level int `json:"level"` // required
	Name  int `json:"name"`  // required
	Value int `json:"value"` // 0
}

// Socket says what kind of socket to make, and what to do with it before it
// connects or listens.
type Socket struct {
	Network string         `json:"network"`           // tcp4, tcp6, udp4, udp6, or tcp, udp: by the address; required
	Bind    netip.AddrPort `json:"bind,omitzero"`     // unbound
	Device  string         `json:"device,omitempty"`  // SO_BINDTODEVICE; none
	MPTCP   bool           `json:"mptcp,omitempty"`   // plain TCP
	Options []Option       `json:"options,omitempty"` // none
}

// Connect says where a socket goes and by which of the many ways.
type Connect struct {
	To       netip.AddrPort `json:"to"`                 // required
	Blocking bool           `json:"blocking,omitempty"` // non-blocking connect and poll
	FastOpen []byte         `json:"fastOpen,omitempty"` // connect by sendto(MSG_FASTOPEN) of these bytes; connect()
	Timeout  time.Duration  `json:"timeout,omitempty"`  // 10 s
}

// Names are what getsockname and getpeername say of a socket.
type Names struct {
	Local netip.AddrPort `json:"local,omitzero"`
	Peer  netip.AddrPort `json:"peer,omitzero"`
}

// Kind is what a server does with a connection.
type Kind string

// The kinds of server.
const (
	Echo       Kind = "echo"        // sends back what it reads, half-closes when its peer does; also datagrams
	SpeakFirst Kind = "speak-first" // sends "you are ADDR\n", then echoes
	Sink       Kind = "sink"        // reads to the end, sends "COUNT SHA256\n"
	Discard    Kind = "discard"     // reads to the end without hashing
	Source     Kind = "source"      // sends Size bytes of stream Seed, then half-closes and reads to the end
	Reset      Kind = "reset"       // reads one byte, then sends RST
	Hold       Kind = "hold"        // never reads, never closes
	HTTP       Kind = "http"        // answers every request with 200 and "you are ADDR\n"
)

// Server says what to serve where.
type Server struct {
	Socket
	Kind Kind   `json:"kind"`           // required
	Size int64  `json:"size,omitempty"` // of a Source; 0
	Seed uint64 `json:"seed,omitempty"` // of a Source; 0
}

// Served is one connection that a server accepted.
type Served struct {
	Names
	Received int64  `json:"received"`
	Sent     int64  `json:"sent"`
	End      string `json:"end,omitempty"` // "": still open; "EOF"; or an errno's name
}

// Transfer is bulk data through one connection, both ways at once.
type Transfer struct {
	Send    int64         `json:"send,omitempty"`    // bytes of stream Seed, then half-close; 0: send nothing, do not close
	Seed    uint64        `json:"seed,omitempty"`    // 0
	Receive int64         `json:"receive,omitempty"` // bytes to read, -1: until the end; 0
	Rate    int64         `json:"rate,omitempty"`    // bytes per second to read at most; unlimited
	Tiny    int           `json:"tiny,omitempty"`    // write 1 to so many bytes at once, of varying number; 64 KiB
	Turns   bool          `json:"turns,omitempty"`   // after each write, read as many bytes; Receive is not looked at
	Open    bool          `json:"open,omitempty"`    // half-close after the last byte sent
	Timeout time.Duration `json:"timeout,omitempty"` // 5 min
}

// Transferred says what a Transfer moved.
type Transferred struct {
	Sent         int64         `json:"sent"`
	SentHash     string        `json:"sentHash"` // SHA-256, hex
	Received     int64         `json:"received"`
	ReceivedHash string        `json:"receivedHash"`
	Elapsed      time.Duration `json:"elapsed"`
}

// Many asks for a crowd of connections to one echo server, held open.
type Many struct {
	Network  string         `json:"network"`            // required
	To       netip.AddrPort `json:"to"`                 // required
	Count    int            `json:"count"`              // required
	Parallel int            `json:"parallel,omitempty"` // dials at once; 64
	Timeout  time.Duration  `json:"timeout,omitempty"`  // per connection; 10 s
}

// Crowd says how the connections of Many fared.
type Crowd struct {
	ID     uint64         `json:"id"`
	OK     int            `json:"ok"`               // connected, and echoed a message of their own
	Failed map[string]int `json:"failed,omitempty"` // errno name -> count
	Connect,
	Echo Quantiles
}

// Measure asks for a measurement against an echo or discard server.
type Measure struct {
	Network  string         `json:"network"`            // required
	To       netip.AddrPort `json:"to"`                 // required
	Size     int            `json:"size,omitempty"`     // bytes per message or write; 64, and 64 KiB for throughput
	Streams  int            `json:"streams,omitempty"`  // connections at once, throughput only; 1
	Duration time.Duration  `json:"duration,omitempty"` // 1 s
}

// Quantiles are the latencies of a series.
type Quantiles struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50"`
	P90   time.Duration `json:"p90"`
	P99   time.Duration `json:"p99"`
	Max   time.Duration `json:"max"`
}

// Throughput is what a bulk measurement moved.
type Throughput struct {
	Bytes   int64         `json:"bytes"`
	Elapsed time.Duration `json:"elapsed"`
}

// Gbps is the throughput in gigabits per second.
func (t Throughput) Gbps() float64 {
	if t.Elapsed <= 0 {
		return 0
	}
	return float64(t.Bytes) * 8 / t.Elapsed.Seconds() / 1e9
}

// Request is an HTTP GET, as a kubelet's probe sends it.
type Request struct {
	URL     string        `json:"url"`               // required
	Timeout time.Duration `json:"timeout,omitempty"` // 5 s
}

// Answer is the answer to a Request.
type Answer struct {
	Status int    `json:"status"`
	Body   string `json:"body"` // its first 64 KiB
}
