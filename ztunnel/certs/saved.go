// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/regular"
)

// saved is what the bundle file holds, so that a ztunnel that starts while the CA is
// away verifies peers by what its predecessor knew. None of it is secret.
type saved struct {
	TrustDomain string       `json:"trustDomain"`
	Generation  uint64       `json:"generation"`
	Hash        sum          `json:"hash"`
	Said        [][]byte     `json:"said"` // DER
	Heard       []savedHeard `json:"heard"`
	Dropped     []sum        `json:"dropped"`
	Judged      sum          `json:"judged"` // see rootFile

	Federated []savedForeign `json:"federated,omitempty"`
	Ended     []savedEnded   `json:"ended,omitempty"`
	Listed    uint64         `json:"listed,omitempty"` // number of the list that Federated is
}

type savedHeard struct {
	Root []byte    `json:"root"`
	At   time.Time `json:"at"`
	File bool      `json:"file,omitempty"` // only the root file has named it
}

// What a file holds, as its first line says.
const (
	savedBundle = "trust bundle"
	savedDenied = "deny set"
)

// maxSaved is more than the roots of all trust domains take in JSON.
const maxSaved = 8 << 20

// savedHeader is the file's first line: what it holds, length and SHA-256 of what follows.
const savedHeader = "culvert %s %d %x\n"

// save writes what is trusted now. A file that cannot be written is said, and the old
// one stays: it was good once.
func (s *Store) save() {
	if s.cfg.BundleFile == "" {
		return
	}
	s.saving.Lock() // in the sequence of the changes
	defer s.saving.Unlock()
	s.mu.Lock()
	now := s.trust.saved(s.cfg.TrustDomain.Name(), s.file.judged)
	s.ended = s.ended.recent(time.Now())
	now.Federated, now.Ended, now.Listed = s.foreign.saved(), s.ended.saved(), s.listed
	s.mu.Unlock()
	if err := writeSaved(s.cfg.BundleFile, savedBundle, now); err != nil {
		s.cfg.Log.Error("writing the trust bundle; a start without the CA would find an older one", logPath, s.cfg.BundleFile, logError, err)
	}
}

func (t *trust) saved(domain string, judged sum) saved {
	v := saved{TrustDomain: domain, Generation: t.said.Generation, Hash: t.said.Hash, Dropped: t.dropped, Judged: judged}
	for _, root := range t.said.Roots {
		v.Said = append(v.Said, root.Raw)
	}
	for _, h := range t.heard {
		v.Heard = append(v.Heard, savedHeard{h.root.Raw, h.at, h.byFile})
	}
	return v
}

// restore takes what an earlier ztunnel saved. A file that is wrong is ignored, and said.
func (s *Store) restore() {
	if s.cfg.BundleFile == "" {
		return
	}
	v, err := readSaved(s.cfg.BundleFile, s.cfg.TrustDomain.Name())
	var t trust
	if err == nil {
		t, err = v.trust()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		s.cfg.Log.Warn("the trust bundle of an earlier run is ignored", logPath, s.cfg.BundleFile, logError, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trust, s.file.judged = t, v.Judged
	now := time.Now()
	s.federateLocked(listing{v.Listed, restoreForeign(v.Federated), true}, now)
	for _, f := range s.foreign {
		f.restored = true
	}
	s.ended = restoreEnded(v.Ended, now)
	s.rebuild(now)
}

// trust leaves out roots that Go cannot read, unless that leaves none: a ztunnel of
// another version may read what this one does not.
func (v saved) trust() (trust, error) {
	t := trust{said: Bundle{Generation: v.Generation, Hash: v.Hash}, dropped: v.Dropped}
	var problem error
	for _, der := range v.Said {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			problem = err
			continue
		}
		t.said.Roots = append(t.said.Roots, root)
	}
	for _, h := range v.Heard {
		root, err := x509.ParseCertificate(h.Root)
		if err != nil {
			problem = err
			continue
		}
		t.heard = append(t.heard, heard{root, h.At, h.File})
	}
	switch {
	case problem != nil && len(t.roots()) == 0:
		return trust{}, problem
	case v.Generation == 0:
		return t, nil
	}
	return t, t.said.check()
}

// writeSaved replaces the file at path, readable by its owner only: after a power cut
// there is the old one or the new one. Nobody else writes there.
func writeSaved(path, what string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, savedHeader+"%s", what, len(body), sha256.Sum256(body), body)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		os.Remove(next)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func readSaved(path, domain string) (saved, error) {
	var v saved
	if err := readWritten(path, savedBundle, maxSaved, &v); err != nil {
		return saved{}, err
	}
	return v, ofDomain(v.TrustDomain, domain)
}

// readWritten reads what writeSaved wrote.
func readWritten(path, what string, limit int64, v any) error {
	text, err := regular.ReadFile(path, limit)
	if err != nil {
		return err
	}
	line, body, _ := bytes.Cut(text, []byte("\n"))
	sizes, begins := bytes.CutPrefix(line[:min(len(line), 128)], []byte("culvert "+what+" "))
	var length int
	var want []byte
	if _, err := fmt.Sscanf(string(sizes), "%d %x", &length, &want); err != nil || !begins {
		return fmt.Errorf("it does not begin as a %s does", what)
	}
	if is := sha256.Sum256(body); len(body) != length || !bytes.Equal(is[:], want) {
		return fmt.Errorf("it is not as it was written: %d of %d bytes, or another checksum", len(body), length)
	}
	return json.Unmarshal(body, v)
}

func ofDomain(is, want string) error {
	if is != want {
		return fmt.Errorf("it is of the trust domain %q, and this node is of %q", is, want)
	}
	return nil
}

// rootFile is Config.RootFile as it was read last.
type rootFile struct {
	content sum
	// judged is the content while the stream was open: it counts no more, since the CA
	// has spoken meanwhile.
	judged sum
	why    string // it cannot be used
}

// rootFilePoll is how often the file is read. It is not watched: a ConfigMap's mount
// changes once a minute at most, by the exchange of a symlink.
const rootFilePoll = 10 * time.Second

// readRootFile takes the roots of the file for as much as those of an answer, while no
// stream says better.
func (s *Store) readRootFile(now time.Time) {
	text, err := regular.ReadFile(s.cfg.RootFile, maxRoots)
	var roots []*x509.Certificate
	if err == nil {
		roots, err = parseRoots(text)
	}
	s.mu.Lock()
	news := ""
	if err != nil {
		news = err.Error()
	}
	f := &s.file
	said := news != f.why
	f.why = news
	changed, judged := false, false
	if err == nil {
		f.content = sha256.Sum256(text)
		if s.following.connected {
			judged = f.judge()
		}
		if !s.following.connected && (s.trust.said.Generation == 0 || f.content != f.judged) {
			err = s.trust.hearFile(roots, now, s.longestLife())
			changed = s.rebuild(now)
		}
	}
	s.mu.Unlock()
	if said && news != "" {
		s.cfg.Log.Warn("the file of roots is not used", logPath, s.cfg.RootFile, logError, err)
	}
	if changed {
		s.cfg.Log.Info("roots were taken from a file", logPath, s.cfg.RootFile, logBundle, hexOf(identity.BundleHash(roots)))
		s.newBundle()
	} else if judged {
		s.save() // else a restart would take the file for changed
	}
}

// judge notes that the CA has spoken since the file was as it is, and reports whether
// that is new.
func (f *rootFile) judge() bool {
	before := f.judged
	if f.content != (sum{}) { // it was read
		f.judged = f.content
	}
	return f.judged != before
}
