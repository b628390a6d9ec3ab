// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/admin"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

// renewer is what the admin socket asks: identities are SPIFFE IDs, or namespace/name of
// ServiceAccounts.
func renewer(store *certs.Store, td spiffeid.TrustDomain) admin.Renew {
	return func(ctx context.Context, identities []string) (any, error) {
		var ids []spiffeid.ID
		for _, text := range identities {
			id, err := named(text, td)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		return store.Renew(ctx, ids...), nil
	}
}

func named(text string, td spiffeid.TrustDomain) (spiffeid.ID, error) {
	if strings.Contains(text, "://") {
		return spiffeid.FromString(text)
	}
	account, err := identity.ParseServiceAccount(text)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%q is neither a SPIFFE ID nor namespace/name of a ServiceAccount", text)
	}
	return account.ID(td)
}

// Renew has the ztunnel whose state is in a directory renew certificates now, those of all
// identities if none is named, and returns its answer: JSON, of []certs.Renewed.
func Renew(ctx context.Context, stateDir string, identities []string) ([]byte, error) {
	query := url.Values{"id": identities}
	if len(identities) == 0 {
		query = url.Values{"all": {""}}
	}
	socket := Config{StateDir: stateDir}.adminSocket()
	answer, err := admin.Post(ctx, socket, "/certs/renew?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("ask ztunnel at %s: %w", socket, err)
	}
	return answer, nil
}
