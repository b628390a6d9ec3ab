// SPDX-License-Identifier: Apache-2.0

// Package foreign reads which workloads of other trust domains the pods of this mesh dial:
// at which addresses they are, and which identity each must prove. Whoever writes that file
// decides whom a client takes for its server, so it is a file of the mesh's operators, and
// nothing of a namespace.
//
//	file -> Parse -> Taken -> kept -> workload.Registry.SetForeign
//
// A file that is wrong, or gone, changes nothing: the last one that was good stays in force,
// since plaintext would go to addresses that nobody names. A restart goes by what was kept,
// and looks at the file when it is known which addresses are of this mesh.
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
	Taken func(netip.Prefix) error
	// Known waits until Taken knows this mesh's objects; nil: it does. Until then no file
	// takes the place of a good one.
	Known   func(context.Context) error
	OnError func(error) // each new problem, when Log has it; none
	Log     *slog.Logger
}

// Source follows one file.
type Source struct {
	options Options
	text    []byte // of what is in force; only Run uses it
	kept    bool   // that text is; only Run uses it

	mu      sync.Mutex // guards what follows
	domains []workload.ForeignDomain
	problem string // with what the file says now; empty: none
}

// Open goes by what was kept, or else by the file. It is an error if neither is good, as far
// as Taken knows.
func Open(o Options) (*Source, error) {
	s := &Source{options: o}
	keptErr := s.start(o.Kept)
	if keptErr == nil {
		s.kept = true
		return s, nil
	}
	never := errors.Is(keptErr, fs.ErrNotExist)
	if never {
		keptErr = errors.New("none was read before")
	}
	if err := s.start(o.File); err != nil {
		return nil, fmt.Errorf("%s: %w (what was kept of it, %s: %v)", o.File, err, o.Kept, keptErr)
	}
	if !never {
		o.Log.Error("what was kept of the workloads of other trust domains is not taken; the file is", logPath, o.Kept, logError, keptErr)
	}
	return s, nil
}

// start puts in force what a file says.
func (s *Source) start(path string) error {
	text, err := regular.ReadFile(path, maxFile)
	if err != nil {
		return err
	}
	domains, err := Parse(text, s.options.TrustDomain)
	if err != nil {
		return err
	}
	if err := s.free(domains); err != nil {
		return err
	}
	s.text, s.domains = text, domains
	return nil
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
	if s.options.Known != nil && s.options.Known(ctx) != nil {
		return nil // ctx ended
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		news, err := s.look()
		if news {
			changed()
		}
		s.say(err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look takes what the file says, and reports whether that is something else than before.
func (s *Source) look() (news bool, err error) {
	domains := s.Domains()
	if !s.kept && s.free(domains) == nil {
		s.keep() // that of a first start, now that this mesh is known
	}
	text, err := regular.ReadFile(s.options.File, maxFile)
	if err != nil {
		return false, err
	}
	if news = !bytes.Equal(text, s.text); news {
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
	s.kept = true // or the log has it that it is not
	next := s.options.Kept + ".new"
	err := writeSynced(next, s.text)
	if err == nil {
		err = os.Rename(next, s.options.Kept)
	}
	if err != nil {
		s.options.Log.Error("which workloads of other trust domains there are is not kept over a restart", logPath, s.options.Kept, logError, err)
	}
}

// writeSynced has a text on the disk before it returns: a part of a list is a list, too, and
// so a machine that lost its power would take fewer workloads for all.
func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
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
