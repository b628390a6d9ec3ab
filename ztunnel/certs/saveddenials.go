// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/culvert-mesh/culvert/identity/deny"
)

// savedDenials is what the file of the deny set holds, so that a ztunnel that starts while
// the CA is away denies what its predecessor denied.
type savedDenials struct {
	TrustDomain string       `json:"trustDomain"`
	Generation  uint64       `json:"generation"`
	Entries     []deny.Entry `json:"entries"`
	Lifted      []deny.Entry `json:"lifted"`
}

// maxDenyFile is more than the longest sets that may be in force take in JSON.
const maxDenyFile = 64 << 20

// saveDenials writes what is denied now; s.denying is held.
func (s *Store) saveDenials() {
	if s.cfg.DenyFile == "" {
		return
	}
	s.mu.Lock()
	generation, entries, _ := s.denials.set.Entries()
	now := savedDenials{TrustDomain: s.cfg.TrustDomain.Name(), Generation: generation, Entries: entries}
	for _, l := range s.denials.lifted {
		now.Lifted = append(now.Lifted, l.Entry)
	}
	s.mu.Unlock()
	if err := writeSaved(s.cfg.DenyFile, savedDenied, now); err != nil {
		s.cfg.Log.Error("writing the deny set; a start without the CA would find an older one", logPath, s.cfg.DenyFile, logError, err)
	}
}

// restoreDenials takes what an earlier ztunnel saved. A file that is wrong is ignored, and
// said: there is no certificate either before the CA has answered.
func (s *Store) restoreDenials() {
	if _, denies := s.cfg.Issuer.(denier); s.cfg.DenyFile == "" || !denies {
		return // who never lifts an entry must not deny by it
	}
	v, err := readDenials(s.cfg.DenyFile, s.cfg.TrustDomain.Name())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		s.cfg.Log.Error("the deny set of an earlier run is ignored", logPath, s.cfg.DenyFile, logError, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denials.set.Copy(v.Generation, v.Entries)
	s.denials.lift(v.Lifted) // nobody knows when: the clock may have been set since
}

func readDenials(path, domain string) (savedDenials, error) {
	var v savedDenials
	if err := readWritten(path, savedDenied, maxDenyFile, &v); err != nil {
		return savedDenials{}, err
	}
	for i, e := range v.Entries {
		if _, err := deny.New(e.Kind, e.Value, e.Until, e.Reason); err != nil {
			return savedDenials{}, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return v, ofDomain(v.TrustDomain, domain)
}
