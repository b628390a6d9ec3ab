// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/regular"
)

// kept is what is known of a domain's bundle, also over restarts. None of it is secret.
type kept struct {
	TrustDomain string        `json:"trustDomain"`
	Sequence    uint64        `json:"sequence"`
	Numbered    bool          `json:"numbered"`
	Roots       [][]byte      `json:"roots"` // DER
	Fetched     time.Time     `json:"fetched"`
	Refresh     time.Duration `json:"refreshNanoseconds"`
	// Began is SHA-256 of the bundle file when a bundle last came: it vouches for the endpoint
	// only if its operator has written another since.
	Began []byte `json:"began,omitempty"`
}

func (k kept) roots() (all []*x509.Certificate, err error) {
	for _, der := range k.Roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		all = append(all, root)
	}
	return all, nil
}

func statePath(dir string, td spiffeid.TrustDomain) string {
	return filepath.Join(dir, td.Name()+".json")
}

// restore returns what was kept; the zero one if nothing was. own are the roots of this trust
// domain.
func restore(dir string, td spiffeid.TrustDomain, own []*x509.Certificate) (k kept, err error) {
	if dir == "" {
		return kept{}, nil
	}
	path := statePath(dir, td)
	text, err := regular.ReadFile(path, 4*maxBundle)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return kept{}, nil
	case err != nil:
		return kept{}, err
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return kept{}, fmt.Errorf("%s: %v", path, err)
	}
	if k.TrustDomain != td.Name() {
		return kept{}, fmt.Errorf("%s is of the trust domain %q", path, k.TrustDomain)
	}
	roots, err := k.roots()
	if err == nil {
		err = checkRoots(roots, td, own)
	}
	if err != nil {
		return kept{}, fmt.Errorf("%s: %v", path, err)
	}
	return k, nil
}

// save replaces what was kept: after a power cut there is the old one or the new one.
func (k kept) save(dir string, td spiffeid.TrustDomain) error {
	if dir == "" {
		return nil
	}
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), statePath(dir, td))
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	open, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(open.Sync(), open.Close())
}

// listed are the domains of which something is kept.
func listed(dir string) (all []spiffeid.TrustDomain) {
	if dir == "" {
		return nil
	}
	files, _ := os.ReadDir(dir) // none: nothing is kept
	for _, f := range files {
		name, is := strings.CutSuffix(f.Name(), ".json")
		if td, err := spiffeid.TrustDomainFromString(name); is && err == nil {
			all = append(all, td)
		}
	}
	return all
}

// forget removes what was kept of a domain that is federated with no more.
func forget(dir string, td spiffeid.TrustDomain) {
	if dir != "" {
		os.Remove(statePath(dir, td))
	}
}
