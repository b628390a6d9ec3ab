// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// BenchmarkIssue is what one certificate costs the CA: the node's token verified, all
// checks of the decision, the signature, and the audit record in JSON; and, beside it, a
// line of the ledger in its file. Keys are P-256, and CSRs are those of ztunnel. In a batch, as ztunnel asks, the token is verified once. gRPC
// and TLS come on top.
//
// No certificate can do without the arithmetic: one signature verified, that of the CSR,
// and one made. How much longer it takes than that says more than leaves/s/core about a
// processor that is slow, or busy.
func BenchmarkIssue(b *testing.B) {
	const accounts, batch = 4096, 32 // so many that no identity is asked for too often
	var running []Running
	var ids, csrs []string
	for i := range accounts {
		account := identity.ServiceAccount{Namespace: "shop", Name: fmt.Sprintf("app-%d", i)}
		running = append(running, Running{Node: "node-1", ServiceAccount: account})
		ids, csrs = append(ids, must(account.ID(td)).String()), append(csrs, ztunnelCSR(b, must(account.ID(td))))
	}
	plain := func(c *Config) {
		c.Log = slog.New(slog.NewJSONHandler(io.Discard, nil))
		c.NodeRate, c.NodeBurst = 1e9, 1e9
		c.Placement.Replace(running, nil)
	}
	rigs := map[string]*rig{"": newRig(b, plain), ", with a ledger": newRig(b, func(c *Config) {
		plain(c)
		withLedger(b, b.TempDir())(c)
	})}
	ctx := withToken(b.Context(), goodToken(b))
	var bare time.Duration // the arithmetic of one
	report := func(b *testing.B, issued int, took time.Duration) {
		b.ReportMetric(float64(issued)/took.Seconds(), "leaves/s/core")
		if bare > 0 {
			b.ReportMetric(float64(took)/float64(issued)/float64(bare), "times-arithmetic")
		}
	}
	b.Run("the arithmetic alone", func(b *testing.B) {
		digest := sha256.Sum256([]byte("what is signed"))
		signature := must(ecdsa.SignASN1(rand.Reader, esKey, digest[:]))
		pairs := 0
		before := processor()
		for b.Loop() {
			if !ecdsa.VerifyASN1(&esKey.PublicKey, digest[:], signature) {
				b.Fatal("the signature is wrong")
			}
			signature = must(ecdsa.SignASN1(rand.Reader, esKey, digest[:]))
			pairs++
		}
		took := processor() - before
		report(b, pairs, took)
		bare = took / time.Duration(pairs)
	})
	for _, with := range slices.Sorted(maps.Keys(rigs)) {
		r := rigs[with]
		b.Run("one by one"+with, func(b *testing.B) {
			issued := 0
			var took []time.Duration
			before := processor()
			for b.Loop() {
				i := issued % accounts
				began := time.Now()
				if _, err := r.CreateCertificate(ctx, &identityv1.IstioCertificateRequest{
					Csr: csrs[i], Metadata: must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: ids[i]})),
				}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
				issued++
			}
			report(b, issued, processor()-before)
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
		b.Run(fmt.Sprintf("batches of %d%s", batch, with), func(b *testing.B) {
			issued := 0
			before := processor()
			for b.Loop() {
				request := &identityv1.SignRequest{}
				for range batch {
					block, _ := pem.Decode([]byte(csrs[issued%accounts]))
					request.Requests = append(request.Requests, &identityv1.SigningRequest{Id: ids[issued%accounts], Csr: block.Bytes})
					issued++
				}
				response, err := r.Sign(ctx, request)
				if err != nil {
					b.Fatal(err)
				}
				for _, result := range response.GetResults() {
					if len(result.GetChain()) == 0 {
						b.Fatal(result)
					}
				}
			}
			report(b, issued, processor()-before)
		})
	}
}

// ztunnelCSR is what ztunnel sends: the ID is for CAs that want to read it there.
func ztunnelCSR(b *testing.B, id spiffeid.ID) string {
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// processor is the time that this process has had a processor: a busy machine makes a
// benchmark take longer, and changes this less.
func processor() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
