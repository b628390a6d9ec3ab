// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"encoding/json"
	"time"
)

// End is one end of an Edge, as far as its node knows it.
type End struct {
	Namespace string `json:"namespace,omitempty"`
	Workload  string `json:"workload,omitempty"`
	Identity  string `json:"identity,omitempty"` // proven
}

// Edge is what a node counted of connections with the same ends, Service and port.
type Edge struct {
	Direction   string            `json:"direction"` // outbound, inbound, or others: what had no room
	Source      End               `json:"source"`
	Destination End               `json:"destination"`
	Service     string            `json:"service,omitempty"` // NAMESPACE/NAME
	Port        uint16            `json:"port,omitempty"`
	Secured     bool              `json:"secured"`
	Reason      string            `json:"reason,omitempty"` // why not
	Opened      uint64            `json:"opened"`
	Open        int64             `json:"open"`
	Refused     map[string]uint64 `json:"refused,omitempty"` // by the word of the access record
	BytesSent   uint64            `json:"bytesSent"`
	BytesRecv   uint64            `json:"bytesRecv"`
	Last        time.Time         `json:"last"`
}

// Connection is an open one of a pod.
type Connection struct {
	Direction   string  `json:"direction"`
	Path        string  `json:"path"`
	Protocol    string  `json:"protocol"` // HBONE or TCP
	Src         string  `json:"src"`
	OriginalDst string  `json:"originalDst"`
	ActualDst   string  `json:"actualDst"`
	Dst         string  `json:"dst,omitempty"` // the app that it is for
	SrcIdentity string  `json:"srcIdentity,omitempty"`
	DstIdentity string  `json:"dstIdentity,omitempty"`
	Service     string  `json:"service,omitempty"`
	Plaintext   string  `json:"plaintext,omitempty"`
	BytesSent   uint64  `json:"bytesSent"`
	BytesRecv   uint64  `json:"bytesRecv"`
	Age         string  `json:"age"`
	Tunnel      *Tunnel `json:"tunnel,omitempty"`
	TCP         TCP     `json:"tcp,omitzero"`
}

// Tunnel carries a Connection.
type Tunnel struct {
	Cipher     string    `json:"cipher"`
	Group      string    `json:"group"`
	PeerSerial string    `json:"peerSerial"`
	Until      time.Time `json:"until,omitzero"`
	TCP        TCP       `json:"tcp,omitzero"`
}

// TCP is what a node's kernel measured.
type TCP struct {
	RTT           uint32 `json:"rttMicroseconds"`
	Retransmitted uint32 `json:"retransmitted"`
}

// Connections are the open ones of a pod.
type Connections struct {
	Inbound  []Connection `json:"inbound"`
	Outbound []Connection `json:"outbound"`
	Omitted  int          `json:"omitted"`
}

// UnmarshalJSON is part of json.Unmarshaler. An older ztunnel lists them without saying
// enough of them: there are none then.
func (c *Connections) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(data, []byte("[")) {
		return nil
	}
	type plain Connections
	return json.Unmarshal(data, (*plain)(c))
}
