// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Kind says what a line is about.
type Kind string

// Kinds of lines.
const (
	KindFile       Kind = "file"       // the first line of each file: Number, Boot, Chain
	KindStart      Kind = "start"      // a process goes on with the chain: Ended, Boot, Chain, Cut, Missing
	KindIssued     Kind = "issued"     // a certificate was signed: Decision
	KindDenied     Kind = "denied"     // a caller that had proved who it is got none: Decision
	KindSigner     Kind = "signer"     // the key of the checkpoints that follow: Certificates
	KindCheckpoint Kind = "checkpoint" // all lines before are signed: Signed
	KindGap        Kind = "gap"        // lines could not be kept: Missing
	KindRemoved    Kind = "removed"    // a file goes, since it is old or the room is used up: Removed
	KindPutBack    Kind = "put-back"   // lines are lost that an anchor names: Anchor, and the Chain from here on
	KindEnd        Kind = "end"        // the process has ended in good order
)

// maxLine bounds a line, its end included.
const maxLine = 64 << 10

// Record is one line. Names of fields are those of the CA's log.
type Record struct {
	Seq     uint64    `json:"seq"` // one more than that of the line before, but after a gap
	Time    time.Time `json:"time"`
	Replica string    `json:"replica"` // whose chain it is
	Kind    Kind      `json:"kind"`
	Prev    string    `json:"prev"` // SHA-256 of the line before without its end, in hexadecimal

	Decision
	Upkeep
}

// Decision is one answer to a request for a certificate. It holds no key and no token.
type Decision struct {
	Identity    string    `json:"identity,omitempty"` // SPIFFE ID, as asked for
	AccountUID  string    `json:"account_uid,omitempty"`
	Pods        []string  `json:"pods,omitempty"`         // UIDs of those that it is for
	PodsOmitted int       `json:"pods_omitted,omitempty"` // further ones, beyond maxPods
	Node        string    `json:"node,omitempty"`
	NodeUID     string    `json:"node_uid,omitempty"`
	Caller      string    `json:"caller,omitempty"` // ServiceAccount of who asked
	Pod         string    `json:"pod,omitempty"`    // that asked
	PodUID      string    `json:"pod_uid,omitempty"`
	Token       string    `json:"token,omitempty"`   // ID of the caller's token
	Process     string    `json:"process,omitempty"` // outside Kubernetes, that asked for itself
	From        string    `json:"from,omitempty"`    // address; proves nothing
	KeySHA256   string    `json:"key_sha256,omitempty"`
	Serial      string    `json:"serial,omitempty"` // in hexadecimal
	DNSNames    []string  `json:"dns_names,omitempty"`
	NotBefore   time.Time `json:"not_before,omitzero"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	Issuer      string    `json:"issuer,omitempty"`         // subject key identifier, in hexadecimal
	Wanted      float64   `json:"ttl_wanted,omitempty"`     // lifetime that was asked for, in seconds
	LifetimeBy  string    `json:"lifetime_by,omitempty"`    // who set the one that was given
	Code        string    `json:"code,omitempty"`           // of a refusal, as gRPC has it
	Refusal     string    `json:"refusal,omitempty"`        // the word for why
	Reason      string    `json:"reason,omitempty"`         // the same in a sentence
	Omitted     int       `json:"denied_omitted,omitempty"` // refusals of this caller since its last line, which have none
	Took        float64   `json:"took,omitempty"`           // seconds
}

// Upkeep is what lines say of the chain itself.
type Upkeep struct {
	Version      int         `json:"version,omitempty"` // of the format
	Number       uint64      `json:"number,omitempty"`  // of the file
	Ended        Ended       `json:"ended,omitempty"`   // how the process before did
	Boot         string      `json:"boot,omitempty"`    // ID of the machine's boot
	Chain        string      `json:"chain,omitempty"`   // ID
	Anchor       *Checkpoint `json:"anchor,omitempty"`  // whose line is not there
	Cut          *Cut        `json:"cut,omitempty"`
	Missing      *Missing    `json:"missing,omitempty"`
	Certificates [][]byte    `json:"certificates,omitempty"` // DER: of the signer, then those above it but the root
	Signed       *Checkpoint `json:"signed,omitempty"`
	Removed      *Removed    `json:"removed,omitempty"`
}

// Ended is how the process before left the chain.
type Ended string

// Ways to leave it.
const (
	EndedFirst   Ended = "first"   // there was none
	EndedClosed  Ended = "closed"  // in good order
	EndedKilled  Ended = "killed"  // without a word, and the machine ran on: what was written is there
	EndedStopped Ended = "stopped" // with its machine: what was not on disk yet may be missing
	EndedFailing Ended = "failing" // while lines could not be written: those it had may be missing
)

// Cut is what the end of a file held that was no whole line.
type Cut struct {
	File   uint64 `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // of these bytes, in hexadecimal
}

// Missing are lines that the chain lacks.
type Missing struct {
	First  uint64    `json:"first"` // Seq
	Last   uint64    `json:"last"`
	Issued uint64    `json:"issued,omitempty"` // how many of them, where that is known
	Denied uint64    `json:"denied,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Why    string    `json:"why"`
}

// Removed is a file that goes by rule.
type Removed struct {
	Replica string `json:"replica"`         // of whose chain; of one that has ended, if it is another's
	Chain   string `json:"chain,omitempty"` // its ID at the end of the file; none: no line of the file has one
	Number  uint64 `json:"number"`
	Last    uint64 `json:"last"` // Seq of its last line
	Hash    string `json:"hash"` // of that line
	Why     string `json:"why"`  // age or room
}

// hash names a line.
type hash [sha256.Size]byte

func hashOf(line []byte) hash { return sha256.Sum256(line) }

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// encode is the line of a record, without its end.
func (r *Record) encode() ([]byte, error) {
	var line bytes.Buffer
	out := json.NewEncoder(&line)
	out.SetEscapeHTML(false)
	if err := out.Encode(r); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(line.Bytes(), []byte("\n"))
	if len(text) >= maxLine {
		return nil, fmt.Errorf("it would be %d bytes long, the limit is %d", len(text), maxLine)
	}
	return text, nil
}

// decode reads a line without its end.
func decode(line []byte) (r Record, err error) {
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, fmt.Errorf("it is no record: %v", err)
	}
	if r.Seq == 0 || r.Kind == "" || len(r.Prev) != hex.EncodedLen(sha256.Size) {
		return Record{}, fmt.Errorf("it is no record: seq, kind or prev is not there")
	}
	return r, nil
}

const (
	maxPods = 256
	maxText = 2048 // bytes of an identity or a reason
)

// bounded is a decision that fits into a line, whatever a caller asked for.
func (d Decision) bounded() Decision {
	if over := len(d.Pods) - maxPods; over > 0 {
		d.Pods, d.PodsOmitted = d.Pods[:maxPods], over
	}
	for _, text := range []*string{&d.Identity, &d.Reason} {
		if len(*text) > maxText {
			*text = (*text)[:maxText]
		}
	}
	return d
}
