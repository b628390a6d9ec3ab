// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

const (
	// maxBatchSize bounds the CSRs and identities of one request. The CA takes 64 KiB.
	maxBatchSize = 56 << 10
	// istioFor is how long a connection is taken to lead to a CA that knows Istio's
	// protocol only. Behind the address of a Service there may be another by then.
	istioFor = 10 * time.Minute
	// istioAtOnce is how many requests of a batch such a CA is asked at a time.
	istioAtOnce = 8
)

// answer is what one request of a batch got.
type answer struct {
	issued Issued
	err    error // a gRPC status
	alone  bool  // the CA did not take its time for it, as it was not alone
	after  time.Duration
}

// IssueAll is a batcher's. It asks in as few requests as the sizes allow, one after the
// other.
func (c *Client) IssueAll(ctx context.Context, requests []Request) []Result {
	results := make([]Result, 0, len(requests))
	for len(requests) > 0 {
		n := batchSize(requests)
		results = append(results, c.issueBatch(ctx, requests[:n])...)
		requests = requests[n:]
	}
	return results
}

func batchSize(requests []Request) int {
	size := 0
	for n, r := range requests {
		if size += len(r.CSR) + len(r.ID.String()); n == identityv1.MaxBatch || n > 0 && size > maxBatchSize {
			return n
		}
	}
	return len(requests)
}

// issueBatch asks until somebody answers, or ctx ends.
func (c *Client) issueBatch(ctx context.Context, requests []Request) []Result {
	results := make([]Result, len(requests))
	answers, err := c.sign(ctx, requests)
	for i := range results {
		switch {
		case err != nil:
			results[i].Err = err
		case answers[i].err != nil:
			results[i].Err = answers[i].problem(c)
		default:
			results[i].Issued = answers[i].issued
			c.issued.Store(true)
		}
	}
	return results
}

// problem is what a refusal means, and what the CA wishes.
func (a answer) problem(c *Client) error {
	known, ok := c.problem(a.err).(*Problem)
	if !ok {
		return a.err
	}
	said := *known // it may be the connection's, too
	said.Alone, said.After = a.alone, max(said.After, a.after)
	return &said
}

func (c *Client) sign(ctx context.Context, requests []Request) ([]answer, error) {
	authorized, err := c.authorize(ctx)
	if err != nil {
		return nil, err
	}
	question := func(ctx context.Context, r *replica) ([]answer, error) { return r.sign(ctx, requests) }
	answers, err := ask(authorized, c, question)
	for err != nil && isAway(err) && ctx.Err() == nil {
		wait(ctx, roundPause, nil)
		answers, err = ask(authorized, c, question)
	}
	if err != nil {
		return nil, c.problem(err)
	}
	return answers, nil
}

// sign asks in Culvert's protocol, or in Istio's if the replica does not know that.
func (r *replica) sign(ctx context.Context, requests []Request) ([]answer, error) {
	if time.Now().UnixNano() < r.istioUntil.Load() {
		return r.create(ctx, requests)
	}
	response, err := r.signer.Sign(ctx, signRequest(requests))
	if status.Code(err) == codes.Unimplemented {
		r.istioUntil.Store(time.Now().Add(istioFor).UnixNano())
		return r.create(ctx, requests)
	}
	if err != nil {
		return nil, err
	}
	return readSigned(response, len(requests))
}

func signRequest(requests []Request) *identityv1.SignRequest {
	all := &identityv1.SignRequest{}
	for _, r := range requests {
		one := &identityv1.SigningRequest{Id: r.ID.String(), Csr: r.CSR} // what is no CSR, the CA refuses
		if block, _ := pem.Decode(r.CSR); block != nil {
			one.Csr = block.Bytes
		}
		if r.TTL > 0 {
			one.Ttl = durationpb.New(r.TTL)
		}
		all.Requests = append(all.Requests, one)
	}
	return all
}

func readSigned(response *identityv1.SignResponse, want int) ([]answer, error) {
	results := response.GetResults()
	if len(results) != want {
		return nil, status.Errorf(codes.DataLoss, "the CA answered %d of %d requests", len(results), want)
	}
	roots, err := parseDER(response.GetRoots(), identityv1.MaxRoots)
	if err != nil && len(roots) == 0 {
		return nil, status.Errorf(codes.DataLoss, "roots of the CA's answer: %v", err)
	}
	answers := make([]answer, want)
	for i, r := range results {
		answers[i] = readOne(r, roots)
	}
	return answers, nil
}

func readOne(r *identityv1.SigningResult, roots []*x509.Certificate) answer {
	if denial := r.GetDenial(); denial != nil {
		return readDenial(denial)
	}
	chain, err := parseDER(r.GetChain(), maxChain)
	if err == nil && len(chain) == 0 {
		err = fmt.Errorf("it holds neither a certificate nor a refusal")
	}
	if err != nil {
		return answer{err: status.Errorf(codes.DataLoss, "the CA's answer: %v", err)}
	}
	return answer{issued: Issued{Chain: chain, Roots: roots, RenewAfter: max(0, r.GetRenewAfter().AsDuration())}}
}

// readDenial makes a denial the status that it would be if its request had been alone.
func readDenial(denial *identityv1.Denial) answer {
	code := codes.Code(denial.GetCode())
	if code == codes.OK {
		code = codes.Unknown
	}
	st := status.New(code, denial.GetMessage())
	if denial.GetRefusal() != nil {
		if detailed, err := st.WithDetails(denial.GetRefusal()); err == nil {
			st = detailed
		}
	}
	return answer{
		err:   st.Err(),
		alone: code == codes.Unavailable && denial.GetRefusal().GetReason() == identityv1.Reason_NOT_PLACED,
		after: max(0, denial.GetRetryAfter().AsDuration()),
	}
}

// parseDER returns those that it could read, and what is wrong with the others.
func parseDER(ders [][]byte, limit int) ([]*x509.Certificate, error) {
	if len(ders) > limit {
		return nil, fmt.Errorf("%d certificates, the limit is %d", len(ders), limit)
	}
	var certs []*x509.Certificate
	var problem error
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			problem = err
			continue
		}
		certs = append(certs, cert)
	}
	return certs, problem
}

// create asks for one after the other, some at a time. If nobody answers for any, that
// is the answer for all.
func (r *replica) create(ctx context.Context, requests []Request) ([]answer, error) {
	answers := make([]answer, len(requests))
	var group sync.WaitGroup
	places := make(chan struct{}, istioAtOnce)
	for i, request := range requests {
		places <- struct{}{}
		group.Go(func() {
			answers[i] = r.createOne(ctx, request)
			<-places
		})
	}
	group.Wait()
	if slices.ContainsFunc(answers, func(a answer) bool { return a.err == nil || decisive(ctx, a.err) }) {
		return answers, nil
	}
	return nil, answers[0].err
}

func (r *replica) createOne(ctx context.Context, request Request) answer {
	response, err := r.ca.CreateCertificate(ctx, &identityv1.IstioCertificateRequest{
		Csr:              string(request.CSR),
		ValidityDuration: int64(request.TTL / time.Second),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			identityv1.ImpersonatedIdentity: structpb.NewStringValue(request.ID.String()),
		}},
	})
	if err != nil {
		return answer{err: err}
	}
	issued, err := parseIssued(response.GetCertChain())
	if err != nil {
		return answer{err: status.Error(codes.DataLoss, err.Error())}
	}
	return answer{issued: issued}
}
