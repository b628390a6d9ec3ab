// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	caPort        = 15012
	caMetricsPort = 15014
)

// IdentityOptions say what a CA is like.
type IdentityOptions struct {
	Name        string        // of its netns and files; identity
	Host        int           // its number on the wire; 100
	TrustDomain string        // cluster.local
	TTL         time.Duration // of certificates; the CA's default
	Args        []string      // further flags; none
}

// Identity is a culvert-identity process in a netns of its own on the wire.
type Identity struct {
	*Process
	Addr netip.AddrPort // where nodes reach it
	Root string         // path of the root certificate

	opts  IdentityOptions
	dir   string
	place *Place
}

// StartIdentity starts a CA and waits until it is ready. It trusts the lab's
// tokens and has a directory of the cluster's objects of its own.
func (l *Lab) StartIdentity(ctx context.Context, opts IdentityOptions) (*Identity, error) {
	if opts.Name == "" {
		opts.Name = "identity"
	}
	if opts.Host == 0 {
		opts.Host = infraHost
	}
	if opts.TrustDomain == "" {
		opts.TrustDomain = "cluster.local"
	}
	ns, err := l.newNamespace(opts.Name)
	if err != nil {
		return nil, err
	}
	if err := l.Wire.attach(opts.Name, ns, opts.Host); err != nil {
		return nil, err
	}
	place, err := l.newPlace(opts.Name, ns, opts.Name)
	if err != nil {
		return nil, err
	}
	ca := &Identity{
		Addr: netip.AddrPortFrom(host(wire4, opts.Host).Addr(), caPort),
		opts: opts, dir: filepath.Join(l.run.dir, opts.Name), place: place,
	}
	ca.Root = filepath.Join(ca.dir, "ca", "root.pem")
	if err := l.prepareIdentity(ca); err != nil {
		return nil, err
	}
	return ca, ca.Start(ctx)
}

func (l *Lab) prepareIdentity(ca *Identity) error {
	if err := os.MkdirAll(filepath.Join(ca.dir, "ca"), 0o700); err != nil {
		return err
	}
	keys, err := l.tokens.jwks()
	if err != nil {
		return err
	}
	return errors.Join(
		l.cluster.join(filepath.Join(ca.dir, "yaml")),
		writeAtomic(filepath.Join(ca.dir, "jwks.json"), keys),
	)
}

// Start starts the CA, again after Stop or Kill, and waits until it is ready.
func (ca *Identity) Start(ctx context.Context) (err error) {
	args := []string{
		ca.place.lab.program("culvert-identity"),
		"-dir", filepath.Join(ca.dir, "ca"),
		"-listen", fmt.Sprintf(":%d", caPort),
		"-workloads", filepath.Join(ca.dir, "yaml"),
		"-jwks", filepath.Join(ca.dir, "jwks.json"),
		"-trust-domain", ca.opts.TrustDomain,
		"-metrics-address", fmt.Sprintf(":%d", caMetricsPort),
		"-log-format", "json",
	}
	if ca.opts.TTL > 0 {
		args = append(args, "-ttl", ca.opts.TTL.String())
	}
	args = append(args, ca.opts.Args...)
	if ca.Process, err = ca.place.Start("ca", args...); err != nil {
		return err
	}
	return ca.place.awaitReady(ctx, ca.Process, fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", caMetricsPort))
}

// Get asks the CA's metrics server, as "/metrics".
func (ca *Identity) Get(ctx context.Context, path string) (int, string, error) {
	return ca.place.httpGet(ctx, fmt.Sprintf("http://127.0.0.1:%d%s", caMetricsPort, path))
}
