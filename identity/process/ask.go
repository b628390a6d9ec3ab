// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/regular"
)

const (
	askWithin  = 10 * time.Second
	maxMessage = 256 << 10 // a chain and all roots
	maxToken   = 4 << 10
	maxCerts   = 8 // of a chain
)

// Refused is a refusal of the CA, in its words.
type Refused struct {
	Reason   identityv1.Reason
	Sentence string
}

func (r *Refused) Error() string { return r.Sentence }

// errNoWay is wrapped if there is neither a certificate nor a token to prove oneself by.
var errNoWay = errors.New("an operator must make a join token (culvert join token create)")

// final reports whether asking again would not help: only an operator can.
func final(err error) bool {
	var r *Refused
	if !errors.As(err, &r) {
		return errors.Is(err, errNoWay)
	}
	switch r.Reason {
	case identityv1.Reason_JOIN_TOKEN_UNKNOWN, identityv1.Reason_JOIN_TOKEN_EXPIRED, identityv1.Reason_JOIN_TOKEN_REDEEMED,
		identityv1.Reason_PROCESS_REVOKED:
		return true
	}
	return false
}

// ask asks the CA for a certificate: by the one that there is, or by the token.
func (k *keeper) ask(ctx context.Context) (*svid, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var (
		own *tls.Certificate
		key *ecdsa.PrivateKey
		err error
	)
	if k.current != nil && k.current.valid(time.Now()) {
		own = k.current.certificate()
		key, err = newKey()
	} else {
		if ctx, err = k.bearing(ctx); err == nil {
			key, err = k.dir.pendingKey()
		}
	}
	if err != nil {
		return nil, err
	}
	answer, err := k.create(ctx, own, key)
	if err != nil {
		return nil, k.explain(err)
	}
	fresh, err := read(key, answer)
	if err != nil {
		return nil, fmt.Errorf("the answer of the CA at %s: %v", k.CA, err)
	}
	if k.current != nil && fresh.id != k.current.id {
		return nil, fmt.Errorf("the CA at %s certified %v, but the process is %v", k.CA, fresh.id, k.current.id)
	}
	return fresh, nil
}

func (s *svid) certificate() *tls.Certificate {
	cert := &tls.Certificate{PrivateKey: s.key, Leaf: s.leaf()}
	for _, c := range s.chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// bearing adds the token as it is in its file now.
func (k *keeper) bearing(ctx context.Context) (context.Context, error) {
	expired := ""
	if k.current != nil {
		expired = fmt.Sprintf("the certificate of %v expired on %s before it was renewed: ", k.current.id, k.current.until().UTC().Format(time.RFC3339))
	}
	if k.TokenFile == "" {
		return nil, fmt.Errorf("%sthere is no join token: %w", expired, errNoWay)
	}
	text, err := regular.ReadFile(k.TokenFile, maxToken)
	if err != nil {
		return nil, fmt.Errorf("%sjoin token: %w", expired, err)
	}
	text = bytes.TrimSpace(text)
	if _, err := join.Parse(string(text)); err != nil {
		return nil, fmt.Errorf("%s%s is no join token: %w", expired, k.TokenFile, err)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+string(text)), nil
}

// create makes one connection for one request: the certificate that it shows is the
// current one.
func (k *keeper) create(ctx context.Context, own *tls.Certificate, key *ecdsa.PrivateKey) (*identityv1.IstioCertificateResponse, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: k.ServerName, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // by crypto/tls: verifyCA does it, by roots as they are at that moment
		VerifyConnection:   k.verifyCA,
	}
	if own != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	conn, err := grpc.NewClient("dns:///"+k.CA, grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return identityv1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &identityv1.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		ValidityDuration: int64(k.TTL / time.Second),
	})
}

// verifyCA takes a CA that a root of RootFile or of the bundle vouches for: the file is
// what the operator says, and may be older than a change of the root.
func (k *keeper) verifyCA(state tls.ConnectionState) error {
	opts := x509.VerifyOptions{
		DNSName: k.ServerName, Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	text, err := regular.ReadFile(k.RootFile, maxFile)
	if err != nil {
		return fmt.Errorf("roots of the CA: %w", err)
	}
	roots, err := parseCerts(text)
	if err != nil {
		return fmt.Errorf("roots of the CA: %s: %w", k.RootFile, err)
	}
	if k.current != nil {
		roots = append(roots, k.current.roots...)
	}
	for _, root := range roots {
		opts.Roots.AddCert(root)
	}
	if len(state.PeerCertificates) > maxCerts {
		return fmt.Errorf("the CA shows %d certificates, the limit is %d", len(state.PeerCertificates), maxCerts)
	}
	for _, cert := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err = state.PeerCertificates[0].Verify(opts)
	return err
}

// explain is a failed request in a sentence that names what is at fault.
func (k *keeper) explain(err error) error {
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if r, ok := detail.(*identityv1.Refusal); ok {
			return &Refused{r.GetReason(), fmt.Sprintf("the CA at %s refuses: %s", k.CA, st.Message())}
		}
	}
	if st.Code() == codes.Unavailable || st.Code() == codes.DeadlineExceeded {
		return fmt.Errorf("the CA at %s does not answer: %s", k.CA, st.Message())
	}
	return fmt.Errorf("the CA at %s: %v: %s", k.CA, st.Code(), st.Message())
}

// read is an answer: the leaf, then intermediates, and last one string with all roots.
func read(key *ecdsa.PrivateKey, answer *identityv1.IstioCertificateResponse) (*svid, error) {
	texts := answer.GetCertChain()
	if len(texts) < 2 || len(texts) > maxCerts {
		return nil, fmt.Errorf("there are %d certificates, want 2 to %d", len(texts), maxCerts)
	}
	var chain []*x509.Certificate
	for _, text := range texts[:len(texts)-1] {
		certs, err := parseCerts([]byte(text))
		if err != nil {
			return nil, err
		}
		chain = append(chain, certs...)
	}
	roots, err := parseCerts([]byte(texts[len(texts)-1]))
	if err != nil {
		return nil, err
	}
	return newSVID(key, chain, roots, time.Now())
}
