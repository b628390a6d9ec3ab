// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// stateFormat is the version of the state file; others are not read.
const stateFormat = 2

// The first line of a state file: its format, then the length in bytes and the
// SHA-256 of all that follows.
const (
	stateHeader = "culvert workloads, format %d, %d bytes, sha256 %x\n"
	maxHeader   = 256
)

// state is the last good state, for a start while the API server is away.
type state struct {
	Written time.Time
	of
	Policies        policy.Objects
	NetworkPolicies []networkpolicy.Policy `json:",omitempty"`
	Mesh            workload.Mesh
}

// of is what a state is of: with other options, or from another API server, it
// would mean something else.
type of struct {
	Server            string
	TrustDomain       string
	RootNamespace     string
	IgnoreIstioLabels bool
}

func (s *Source) of() of {
	b := s.options.Build
	return of{s.server, b.TrustDomain.Name(), b.RootNamespace, b.IgnoreIstioLabels}
}

func (s *state) snapshot() source.Snapshot {
	mesh := s.Mesh
	mesh.Stored = true
	return source.Snapshot{Policies: s.Policies, NetworkPolicies: s.NetworkPolicies, Mesh: mesh}
}

// load reads the state file, if there is one. Policies and CIDRs are in force
// until the API server says something else of them.
func (s *Source) load() {
	if s.options.State == "" {
		return
	}
	stored, err := readState(s.options.State, s.of())
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		s.stats.Failures++
		s.options.Log.Error("the state file is not taken: without the API server nothing is known", logPath, s.options.State, logError, err)
		s.options.OnError(err)
	default:
		s.stored = stored
		s.builder.AddCIDRs(stored.Mesh.CIDRs)
		s.builder.Remember(stored.Policies, stored.NetworkPolicies)
	}
}

// maySave reports whether the state file was written long enough ago. A file that has
// pods outside the mesh that are in it by now, or an older policy, is not left for long:
// a ztunnel that is killed has no other for its next start.
func (s *Source) maySave(now time.Time) bool {
	s.mu.Lock()
	newer := s.builder.Decisions() != s.decided
	s.mu.Unlock()
	return !now.Before(s.rested) || newer && !now.Before(s.poised)
}

// save writes the state file if it is not what is in force, or not there.
func (s *Source) save() {
	if s.options.State == "" {
		return
	}
	s.mu.Lock()
	due := s.live && (s.unsaved || !exists(s.options.State))
	var snapshot source.Snapshot
	if due {
		s.unsaved, s.decided = false, s.builder.Decisions()
		snapshot = s.builder.Snapshot()
		s.bounded(snapshot.Mesh)
	}
	s.mu.Unlock()
	if !due {
		return
	}
	start := time.Now()
	size, err := writeState(s.options.State, &state{Written: start, of: s.of(), Policies: snapshot.Policies, NetworkPolicies: snapshot.NetworkPolicies, Mesh: snapshot.Mesh})
	took := time.Since(start)
	s.poised = start.Add(max(saveSoon, soonShare*took))
	s.rested = start.Add(restAfter(size, took))
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsaved = true
	s.stats.Failures++
	s.options.Log.Error("writing the state file; a start without the API server would find an older one", logPath, s.options.State, logError, err)
	s.options.OnError(err)
}

// restAfter is how long the state file, which took so long to write, is not written again.
func restAfter(size int, took time.Duration) time.Duration {
	return max(saveEvery, time.Duration(size)*time.Second/savedASecond, saveShare*took)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeState replaces the file at path, readable by its owner only: after a power
// cut there is the old one or the new one. Nobody else writes there. It returns how
// many bytes that took.
func writeState(path string, s *state) (int, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	size, err := fmt.Fprintf(f, stateHeader+"%s", stateFormat, len(body), sha256.Sum256(body), body)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		os.Remove(next)
	}
	return size, err
}

// readState returns the state at path, or says why it cannot be taken.
func readState(path string, want of) (*state, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	line, body, _ := bytes.Cut(data, []byte("\n"))
	var format, length int
	var sum []byte
	if _, err := fmt.Sscanf(string(line[:min(len(line), maxHeader)])+"\n", stateHeader, &format, &length, &sum); err != nil {
		return nil, fmt.Errorf("%s does not begin as a state file does", path)
	}
	switch has := sha256.Sum256(body); {
	case format != stateFormat:
		return nil, fmt.Errorf("%s has format %d; this version reads format %d", path, format, stateFormat)
	case len(body) < length:
		return nil, fmt.Errorf("%s is cut off after %d of %d bytes", path, len(body), length)
	case !bytes.Equal(has[:], sum):
		return nil, fmt.Errorf("%s is not as it was written: its checksum is another", path)
	}
	s := &state{}
	fields := json.NewDecoder(bytes.NewReader(body))
	fields.DisallowUnknownFields() // a rule without a condition that a newer version wrote lets more in
	if err := fields.Decode(s); err != nil {
		return nil, fmt.Errorf("%s is of another version: %v", path, err)
	}
	if s.of != want {
		return nil, fmt.Errorf("%s is of %+v, this is %+v", path, s.of, want)
	}
	return s, nil
}
