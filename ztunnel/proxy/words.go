// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Word says in the access record how a connection ended. Every way has one.
type Word string

// The words, and what each tells a reader of the record.
const (
	OK            Word = "ok"               // both ends said all they had to say, and whoever we wrote it to acknowledged it
	Denied        Word = "denied"           // a policy refused it, here or at the peer, or a Service its client; or the deny set has one of its ends
	UnknownPeer   Word = "unknown_peer"     // inside the mesh CIDRs, or those of another trust domain, and nobody known is there
	NoOriginalDst Word = "no_original_dst"  // nobody recorded where the app wanted to go
	Dial          Word = "dial"             // the other side could not be reached
	TLS           Word = "tls"              // the peer did not prove to be who it should be
	Identity      Word = "identity"         // we have no certificate, or do not know the pod
	Expired       Word = "expired"          // a certificate of the tunnel ran out
	Limit         Word = "limit"            // out of file descriptors or streams
	SelfCall      Word = "self_call"        // it was meant for ztunnel's own ports
	NotAtSource   Word = "id_not_at_source" // its identity is proved, and comes from an address that the registry does not have for it
	PolicyChanged Word = "policy_changed"   // a policy allowed it, and does no more
	Reset         Word = "reset"            // one end broke it off, or nobody acknowledged its last bytes
	Drained       Word = "drained"          // ztunnel or the pod's membership ended
)

// Words is the one table of how connections end: from each word of the access
// record to its response_flags in the metrics. A flag other than "-" counts
// the connection as failed.
var Words = map[Word]string{
	OK:            "-",
	Denied:        "DENY",
	UnknownPeer:   "CONNECT",
	NoOriginalDst: "CONNECT",
	Dial:          "CONNECT",
	TLS:           "TLS_FAILURE",
	Identity:      "IDENTITY_ERROR",
	Expired:       "IDENTITY_ERROR",
	Limit:         "CONNECT",
	SelfCall:      "DENY",
	NotAtSource:   "DENY",
	PolicyChanged: "DENY",
	Reset:         "-",
	Drained:       "-",
}

// failure is an error that knows its word.
type failure struct {
	word Word
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// fail gives err its word; nil stays nil.
func fail(word Word, err error) error {
	if err == nil {
		return nil
	}
	return &failure{word, err}
}

// errDrained ends connections that outlived the drain.
var errDrained = fail(Drained, errors.New("connection closed due to connection drain"))

// errSelfCall refuses connections to ztunnel itself.
var errSelfCall = fail(SelfCall, errors.New("attempted recursive call to ourselves"))

// wordOf returns the word for how a connection ended. What runs short is told
// before what failed for want of it.
func wordOf(err error) Word {
	switch {
	case err == nil:
		return OK
	case short(err):
		return Limit
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.word
	}
	if _, ok := errors.AsType[*policy.Denied](err); ok {
		return Denied
	}
	if cause, ok := errors.AsType[hbone.Cause](err); ok {
		return Word(cause)
	}
	switch {
	case errors.Is(err, workload.ErrUnknownPeer):
		return UnknownPeer
	case errors.Is(err, workload.ErrSource):
		return Denied
	}
	return Dial
}

// short reports whether this host has run out of something.
func short(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// explained puts the sentence before a tunnel's error that users of Istio's
// ztunnel search for; nil stays nil.
func explained(err error) error {
	var status *hbone.StatusError
	switch {
	case errors.As(err, &status):
		return fmt.Errorf("http status: %d %s: %w", status.Code, http.StatusText(status.Code), err)
	case errors.Is(err, hbone.ErrDial) && errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, hbone.ErrDial) && errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, hbone.ErrDial) && errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Errorf("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: %w", err)
	case errors.Is(err, hbone.ErrIdentity):
		return fmt.Errorf("identity error: %w", err)
	}
	return err
}
