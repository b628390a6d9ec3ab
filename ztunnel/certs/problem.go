// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// Reason is a word for why the CA does not sign for this node. There are few:
// they are values of a metric's label. What the CA itself refuses has the word
// of identityv1.Reason, in lower case.
type Reason string

// Reasons beside the CA's own.
const (
	Signs         Reason = "signs"          // it does
	NotAsked      Reason = "not_asked"      // nobody knows yet
	TokenFile     Reason = "token_file"     // cannot be read
	RootFile      Reason = "root_file"      // cannot be read
	Unreachable   Reason = "unreachable"    // nobody answers at the address
	CACertificate Reason = "ca_certificate" // no root of the file vouches for it
	CAName        Reason = "ca_name"        // it names another server
	TrustDomain   Reason = "trust_domain"   // the CA's is another
	NodeName      Reason = "node_name"      // the token is another node's
	Refused       Reason = "refused"        // by a CA that does not say why in a word
	Failed        Reason = "failed"         // the answer is no answer to the question
	NotDelegate   Reason = "not_delegate"   // SPIRE's agent does not let this node have its pods' identities
	NoEntry       Reason = "no_entry"       // SPIRE has no registration entry for the identity
)

// Those of the CA's own that are treated in a way of their own.
var (
	notPlaced         = reasonOf(identityv1.Reason_NOT_PLACED)
	accountNotTrusted = reasonOf(identityv1.Reason_ACCOUNT_NOT_TRUSTED)
	caNotReady        = reasonOf(identityv1.Reason_CA_NOT_READY)
	apiUnavailable    = reasonOf(identityv1.Reason_API_UNAVAILABLE)
	tooManyRequests   = reasonOf(identityv1.Reason_TOO_MANY_REQUESTS)
)

// Problem is why the CA does not sign for this node, in a word and a sentence
// that names the file or address at fault.
type Problem struct {
	Reason   Reason
	Sentence string
	After    time.Duration // how long the CA wants not to be asked this again; 0: it does not say
	Alone    bool          // the CA would have looked longer, had it not been one of a batch
}

func (p *Problem) Error() string { return p.Sentence }

func problem(reason Reason, format string, args ...any) *Problem {
	return &Problem{Reason: reason, Sentence: fmt.Sprintf(format, args...)}
}

// problem is what a failed call to the CA means.
func (c *Client) problem(err error) error {
	code, sentence := status.Code(err), status.Convert(err).Message()
	if r := wordOf(err); r != identityv1.Reason_REASON_UNSPECIFIED {
		return c.refusal(reasonOf(r), sentence, retryAfter(err))
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		if cause := c.link.problem(); cause != nil {
			return cause
		}
		return problem(Unreachable, "the CA at %s does not answer: %s", c.cfg.Address, sentence)
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.ResourceExhausted, codes.FailedPrecondition, codes.Unimplemented:
		return c.refusal(Refused, sentence, retryAfter(err))
	}
	return problem(Failed, "the CA at %s: %v: %s", c.cfg.Address, code, sentence)
}

// refusal says what is refused, and for how long: the token, if it is the token's fault.
func (c *Client) refusal(reason Reason, sentence string, after time.Duration) error {
	p := c.refusalOf(reason, sentence)
	p.After = after
	return p
}

func (c *Client) refusalOf(reason Reason, sentence string) *Problem {
	if reason == caNotReady || reason == apiUnavailable {
		return problem(reason, "the CA at %s cannot sign now: %s", c.cfg.Address, sentence)
	}
	if strings.HasPrefix(string(reason), "token_") || reason == accountNotTrusted {
		return problem(reason, "the CA at %s refuses the token in %s: %s", c.cfg.Address, c.cfg.TokenFile, sentence)
	}
	return problem(reason, "the CA at %s refuses: %s", c.cfg.Address, sentence)
}

// retryAfter is how long a refusal's status says to wait.
func retryAfter(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return max(0, info.GetRetryDelay().AsDuration())
		}
	}
	return 0
}

// wordOf is the detail of a refusal's status.
func wordOf(err error) identityv1.Reason {
	for _, detail := range status.Convert(err).Details() {
		if r, ok := detail.(*identityv1.Refusal); ok {
			return r.GetReason()
		}
	}
	return identityv1.Reason_REASON_UNSPECIFIED
}

// reasonOf knows only the words of our own version: a CA that is newer must not
// invent values of a label.
func reasonOf(r identityv1.Reason) Reason {
	if name, known := identityv1.Reason_name[int32(r)]; known {
		return Reason(strings.ToLower(name))
	}
	return Refused
}
