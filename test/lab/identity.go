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
	i := &Identity{
		Addr: netip.AddrPortFrom(host(wire4, opts.Host).Addr(), caPort),
		opts: opts, dir: filepath.Join(l.run.dir, opts.Name), place: place,
	}
	i.Root = filepath.Join(i.caDir(), "root.pem")
	if err := l.prepareIdentity(i); err != nil {
		return nil, err
	}
	return i, i.Start(ctx)
}

func (l *Lab) prepareIdentity(i *Identity) error {
	if err := os.MkdirAll(i.caDir(), 0o700); err != nil {
		return err
	}
	keys, err := l.tokens.jwks()
	if err != nil {
		return err
	}
	return errors.Join(
		l.cluster.join(view{dir: filepath.Join(i.dir, "yaml")}),
		writeAtomic(filepath.Join(i.dir, "jwks.json"), keys),
	)
}

// caDir holds the CA's keys, which no node sees.
func (i *Identity) caDir() string { return filepath.Join(i.dir, "ca") }

// Start starts the CA, again after Stop or Kill, and waits until it is ready.
func (i *Identity) Start(ctx context.Context) (err error) {
	args := []string{
		i.place.lab.program("culvert-identity"),
		"-dir", i.caDir(),
		"-listen", fmt.Sprintf(":%d", caPort),
		"-workloads", filepath.Join(i.dir, "yaml"),
		"-jwks", filepath.Join(i.dir, "jwks.json"),
		"-trust-domain", i.opts.TrustDomain,
		"-metrics-address", fmt.Sprintf(":%d", caMetricsPort),
		"-log-format", "json",
	}
	if i.opts.TTL > 0 {
		args = append(args, "-ttl", i.opts.TTL.String())
	}
	args = append(args, i.opts.Args...)
	if i.Process, err = i.place.Start("ca", args...); err != nil {
		return err
	}
	return i.place.awaitReady(ctx, i.Process, fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", caMetricsPort))
}

// Get asks the CA's metrics server, as "/metrics".
func (i *Identity) Get(ctx context.Context, path string) (int, string, error) {
	return i.place.httpGet(ctx, fmt.Sprintf("http://127.0.0.1:%d%s", caMetricsPort, path))
}

// AdminGet asks the CA's admin server, as "/config_dump".
func (i *Identity) AdminGet(ctx context.Context, path string) (int, string, error) {
	return i.place.httpGet(ctx, "http://127.0.0.1:15013"+path)
}
