// SPDX-License-Identifier: Apache-2.0

// Package foreign reads which workloads of other trust domains the pods of this mesh dial:
// at which addresses they are, and which identity each must prove. Whoever writes that file
// decides whom a client takes for its server, so it is a file of the mesh's operators, and
// nothing of a namespace.
//
//	file -> Parse -> Taken -> kept -> workload.Registry.SetForeign
//
// A file that is wrong, or gone, changes nothing: the last one that was good stays in force,
// also over a restart, since plaintext would go to addresses that nobody names.
package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/regular"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// lookEvery is how often the file is read again.
const lookEvery = 2 * time.Second

// Options is how a file is followed.
type Options struct {
	TrustDomain spiffeid.TrustDomain // of this mesh; required
	File        string               // required
	Kept        string               // where the last good text is kept; required
	// Taken says whose addresses these are already, as far as it is known now; nil: nobody's.
	Taken   func(netip.Prefix) error
	OnError func(error) // each new problem, when Log has it; none
	Log     *slog.Logger
}

// Source follows one file.
type Source struct {
	options Options
	text    []byte // of what is in force; only Run uses it

	mu      sync.Mutex // guards what follows
	domains []workload.ForeignDomain
	problem string // with what the file says now; empty: none
}

// Open reads the file, or else what was kept of it. It is an error if neither is good.
func Open(o Options) (*Source, error) {
	s := &Source{options: o}
	_, err := s.look()
	if err == nil {
		return s, nil
	}
	text, keptErr := regular.ReadFile(o.Kept, maxFile)
	if keptErr != nil {
		if errors.Is(keptErr, fs.ErrNotExist) {
			keptErr = errors.New("none was read before")
		}
		return nil, fmt.Errorf("%s: %w (%v)", o.File, err, keptErr)
	}
	domains, keptErr := Parse(text, o.TrustDomain)
	if keptErr != nil {
		return nil, fmt.Errorf("%s: %w (and what was kept of it, %s: %v)", o.File, err, o.Kept, keptErr)
	}
	s.text, s.domains = text, domains
	s.say(err)
	return s, nil
}

// Domains returns what is in force; the caller must not write to it.
func (s *Source) Domains() []workload.ForeignDomain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.domains
}

// Problem is what is wrong with the file now; empty: nothing.
func (s *Source) Problem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// Run calls changed after something else is in force, until ctx ends; then it returns nil.
func (s *Source) Run(ctx context.Context, changed func()) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		news, err := s.look()
		if news {
			changed()
		}
		s.say(err)
	}
}

// look takes what the file says, and reports whether that is something else than before.
func (s *Source) look() (news bool, err error) {
	text, err := regular.ReadFile(s.options.File, maxFile)
	if err != nil {
		return false, err
	}
	domains := s.Domains()
	if news = s.text == nil || !bytes.Equal(text, s.text); news {
		if domains, err = Parse(text, s.options.TrustDomain); err != nil {
			return false, err
		}
	}
	// CIDRs of this mesh may have come since: they win, and the operator has to know.
	if err := s.free(domains); err != nil || !news {
		return false, err
	}
	s.mu.Lock()
	s.domains = domains
	s.mu.Unlock()
	s.text = text
	s.keep()
	return true, nil
}

// free is an error if somebody else has addresses of a domain.
func (s *Source) free(domains []workload.ForeignDomain) error {
	if s.options.Taken == nil {
		return nil
	}
	for i, d := range domains {
		for j, cidr := range d.CIDRs {
			if err := s.options.Taken(cidr); err != nil {
				return fmt.Errorf("[%d].cidrs[%d]: %v of %v: %w", i, j, cidr, d.TrustDomain, err)
			}
		}
	}
	return nil
}

// keep writes the text that is in force where the next start finds it.
func (s *Source) keep() {
	next := s.options.Kept + ".new"
	err := os.WriteFile(next, s.text, 0o600)
	if err == nil {
		err = os.Rename(next, s.options.Kept)
	}
	if err != nil {
		s.options.Log.Error("which workloads of other trust domains there are is not kept over a restart", logPath, s.options.Kept, logError, err)
	}
}

// say logs what is wrong with the file, once.
func (s *Source) say(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	s.mu.Lock()
	before := s.problem
	s.problem = problem
	s.mu.Unlock()
	switch {
	case problem == before:
	case problem == "":
		s.options.Log.Info("the file of workloads of other trust domains is understood again", logPath, s.options.File)
	default:
		s.options.Log.Error("the file of workloads of other trust domains is not taken; what was read before stays in force", logPath, s.options.File, logError, problem)
		if s.options.OnError != nil {
			s.options.OnError(err)
		}
	}
}
