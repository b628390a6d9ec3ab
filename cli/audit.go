// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/cli/custody"
	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ledger"
)

func (c *command) audit() *cobra.Command {
	return noun("audit", "Ask the CA's ledger which certificates were issued, and verify it", c.auditVerify(), c.auditWhoHad(), c.auditTail(), c.auditFetch())
}

// ledgerAt says which files of a ledger the arguments name: a directory, this one without
// any, or files.
func ledgerAt(args []string) (q ledger.Question, err error) {
	if len(args) == 0 {
		args = []string{"."}
	}
	stat, err := os.Stat(args[0])
	switch {
	case err != nil:
		return q, err
	case !stat.IsDir():
		q.Files = args
	case len(args) > 1:
		return q, errors.New("want one directory, or files")
	default:
		q.Dir = args[0]
	}
	return q, nil
}

// examine is ledger.Verify that takes no place without a ledger for one without a fault.
func examine(q ledger.Question, visit func(ledger.Record)) (*ledger.Report, error) {
	report, err := ledger.Verify(q, visit)
	if err == nil && len(report.Chains) == 0 && len(report.Faults) == 0 {
		err = hint(errors.New("there is no ledger: no file is named REPLICA-00000001.jsonl"), "give the directory of culvert-identity's -ledger")
	}
	return report, err
}

// rootsOf are those of files in PEM, and of the CA's directory if that is named.
func (c *command) rootsOf(ctx context.Context, files []string) (roots []*x509.Certificate, err error) {
	for _, path := range files {
		text, err := custody.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--roots: %w", err)
		}
		found := custody.Parse(ca.Files{path: text}, path)
		if len(found) == 0 {
			return nil, fmt.Errorf("--roots: %s holds no certificate in PEM", path)
		}
		for _, cert := range found {
			roots = append(roots, cert.Cert)
		}
	}
	if c.from.caDir != "" {
		held, err := custody.Directory(c.from.caDir).Read(ctx)
		if err != nil {
			return nil, fmt.Errorf("--ca-dir: %w", err)
		}
		roots = append(roots, held.Roots()...)
	}
	return roots, nil
}

// identityFlag is a SPIFFE ID, or a namespace and a name of a ServiceAccount of any trust
// domain.
type identityFlag struct {
	id      string
	account identity.ServiceAccount
}

func (f *identityFlag) Set(s string) error {
	if id, err := spiffeid.FromString(s); err == nil {
		f.id = id.String()
		return nil
	}
	account, err := identity.ParseServiceAccount(s)
	if err != nil {
		return fmt.Errorf("%q: want a SPIFFE ID, or namespace/name of a ServiceAccount", s)
	}
	f.account = account
	return nil
}

func (f *identityFlag) String() string {
	if f.id != "" || f.account == (identity.ServiceAccount{}) {
		return f.id
	}
	return f.account.String()
}

func (f *identityFlag) Type() string { return "identity" }

// is reports whether the flag is not given, or means that identity.
func (f *identityFlag) is(id string) bool {
	return f.String() == "" || id == f.id || f.id == "" && accountOf(id) == f.account
}

// moment is a flag whose value is a time, or how long ago it was.
type moment struct {
	time.Time
	now func() time.Time
}

func (m *moment) Set(s string) error {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		m.Time = t
		return nil
	}
	var ago lifetime
	if err := ago.Set(s); err != nil {
		return errors.New("want a time as 2026-11-30T07:00:00Z, or how long ago, as 90m or 2d")
	}
	m.Time = m.now().Add(-time.Duration(ago))
	return nil
}

func (m *moment) String() string { return stamp(m.Time) }

func (m *moment) Type() string { return "time" }

// decided reports whether a line is a decision.
func decided(r ledger.Record) bool {
	return slices.Contains([]ledger.Kind{ledger.KindIssued, ledger.KindDenied}, r.Kind)
}
