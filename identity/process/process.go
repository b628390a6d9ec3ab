// SPDX-License-Identifier: Apache-2.0

// Package process keeps the identity of one process outside Kubernetes fresh, in files
// that any TLS library reads:
//
//	svid.pem    the certificate, and what leads to a root
//	svid.key    its private key, PKCS#8
//	bundle.pem  the roots by which peers are verified
//
// The process joins by a token of identity/join once, and then renews by its own
// certificate, between 37 % and 49 % of its life, with a new key each time.
//
//	process.go  when what is done
//	ask.go      the CA
//	svid.go     what it answered, and whether that is what was asked for
//	files.go    the files
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

const (
	// lookEvery is how often the wall clock is looked at: it may be set, or the machine
	// may have slept.
	lookEvery = 10 * time.Second

	firstPause = 500 * time.Millisecond
	lastPause  = time.Minute
)

// Config says whose identity is kept where.
type Config struct {
	CA         string        // host:port of culvert-identity; required
	ServerName string        // DNS name or IP address in the CA's certificate; the host of CA
	RootFile   string        // PEM of roots that the CA's own certificate may chain to, beside those of bundle.pem; required
	TokenFile  string        // with a join token; needed until the process has joined
	Dir        string        // of the files; required
	TTL        time.Duration // of a certificate to ask for; what the CA gives
	Log        *slog.Logger  // slog.Default()
}

// Validate returns all that is wrong with the Config.
func (c Config) Validate() error {
	var problems []error
	if host, _, err := net.SplitHostPort(c.CA); err != nil || host == "" {
		problems = append(problems, fmt.Errorf("CA is %q, want host:port", c.CA))
	}
	if c.RootFile == "" {
		problems = append(problems, errors.New("RootFile is required"))
	}
	if c.Dir == "" {
		problems = append(problems, errors.New("a Dir is required"))
	}
	if c.TTL != 0 && (c.TTL < identity.MinTTL || c.TTL > identity.MaxTTL) {
		problems = append(problems, fmt.Errorf("TTL is %v, want %v to %v", c.TTL, identity.MinTTL, identity.MaxTTL))
	}
	return errors.Join(problems...)
}

func (c Config) withDefaults() Config {
	if c.ServerName == "" {
		c.ServerName, _, _ = net.SplitHostPort(c.CA)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Run keeps the files fresh until ctx ends. It returns an error if the process can have
// no certificate any more without an operator, or another Run has the directory.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("identity of the process: %w", err)
	}
	k := &keeper{Config: cfg.withDefaults()}
	dir, err := openDirectory(cfg.Dir)
	if err != nil {
		return err
	}
	defer dir.close()
	k.dir = dir
	if err := k.load(); err != nil {
		return err
	}
	return k.run(ctx)
}

// keeper is one Run.
type keeper struct {
	Config
	dir     *directory
	current *svid // nil before the process has joined
	renew   time.Time
	missing map[fingerprint]bool // roots that the last answer did not name any more
}

// load takes what an earlier Run has left.
func (k *keeper) load() error {
	found, err := k.dir.read()
	if err != nil || found == nil {
		return err
	}
	if !found.valid(time.Now()) {
		k.Log.Warn("the certificate of an earlier run has expired", logIdentity, found.id.String(), logUntil, found.until())
		return nil
	}
	now := time.Now()
	k.current, k.renew = found, now.Add(found.renewal(found.leaf().NotBefore).Sub(now))
	k.Log.Info("identity found", logIdentity, found.id.String(), logUntil, found.until(), logDir, k.Dir)
	return nil
}

func (k *keeper) run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		if wait := k.due(time.Now()); wait > 0 {
			sleep(ctx, min(wait, lookEvery))
			continue
		}
		err := k.next(ctx)
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if final(err) {
			return err
		}
		failures++
		pause := k.pause(failures)
		k.log(err, pause)
		sleep(ctx, pause)
	}
	return nil
}

// due is how long until the next certificate is asked for: by the wall clock, which goes
// on while the machine sleeps, or by the monotonic one, which nobody sets back.
func (k *keeper) due(now time.Time) time.Duration {
	if k.current == nil {
		return 0
	}
	return min(k.renew.Round(0).Sub(now.Round(0)), k.renew.Sub(now))
}

// next asks for a certificate and puts it in place of the current one.
func (k *keeper) next(ctx context.Context) error {
	fresh, err := k.ask(ctx)
	if err != nil {
		return err
	}
	fresh.roots = k.keepRoots(fresh.roots)
	if err := k.dir.write(fresh); err != nil {
		return fmt.Errorf("write the certificate: %w", err)
	}
	what := "identity renewed"
	if k.current == nil {
		what = "the process has joined"
	}
	k.current, k.renew = fresh, fresh.renewal(time.Now())
	k.Log.Info(what, logIdentity, fresh.id.String(), logSerial, fresh.leaf().SerialNumber.Text(16), logUntil, fresh.until(), logDir, k.Dir)
	return nil
}

func (k *keeper) log(err error, pause time.Duration) {
	level, until := slog.LevelWarn, time.Time{}
	if k.current != nil {
		until = k.current.until()
		if k.current.overdue(time.Now()) {
			level = slog.LevelError
		}
	}
	k.Log.Log(context.Background(), level, "no certificate", logError, err.Error(), logUntil, until, logAgain, pause.Round(time.Millisecond))
}

// pause is full jitter over a window that doubles with each failure: up to a minute, or
// a tenth of what the certificate has left.
func (k *keeper) pause(failures int) time.Duration {
	limit := lastPause
	if k.current != nil {
		limit = min(limit, max(firstPause, time.Until(k.current.until())/10))
	}
	window := firstPause
	for n := 1; n < failures && window < limit; n++ {
		window *= 2
	}
	return rand.N(min(window, limit))
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
