// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/cli/livemap"
	"github.com/culvert-mesh/culvert/loopback"
)

// mapAudience is what tokens are for with which one can do nothing but look at the map.
const mapAudience = "culvert-map"

// mapFlags say where the map is served, and to whom.
type mapFlags struct {
	listen, health string
	review         bool
	audience       string
	cert, key      string
	hosts          []string
	every          time.Duration
}

func (c *command) livemap() *cobra.Command {
	var f mapFlags
	cmd := &cobra.Command{
		Use:   "map",
		Short: "Serve a page that shows who talks to whom, as it happens",
		Long: `map serves a page with the graph of the mesh: which workloads talk to which, whether in
mutual TLS, how much, and what is refused and why; with certificates, enrollment and the last
hour. It asks all nodes every few seconds, and while somebody looks it hears from them what
they refuse. It prints the page's address, which holds a token: whoever has the address sees
all that this command sees.

With --token-review it is for a team, in the cluster: each viewer gives a token of Kubernetes
that was made for this page, which the API server reviews, and sees the namespaces whose pods
that token's owner may list: kubectl create token SERVICEACCOUNT --audience culvert-map.
Beyond loopback it answers in TLS alone, by --tls-cert and --tls-key.`,
		Example: "  culvert map\n  culvert map --ztunnel 127.0.0.1:15000",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:15080", "`address` to serve the page at; port 0 is any that is free")
	flags.StringVar(&f.health, "health-listen", "", "`address` at which /readyz says whether the nodes were asked, and nothing else (default none)")
	flags.BoolVar(&f.review, "token-review", false, "viewers sign in with tokens of Kubernetes, and see the namespaces whose pods they may list")
	flags.StringVar(&f.audience, "token-audience", mapAudience, "`name` for which viewers' tokens must be made; empty: the API server, so that the map could act as they")
	flags.StringVar(&f.cert, "tls-cert", "", "`file` of the page's certificate chain, which is read again when it changes")
	flags.StringVar(&f.key, "tls-key", "", "`file` of its private key")
	flags.StringSliceVar(&f.hosts, "host", nil, "`names` by which browsers ask for the page, beside those of loopback")
	flags.DurationVar(&f.every, "every", 5*time.Second, "how often nodes are asked, at most")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.serveMap(cmd.Context(), f) }
	return cmd
}

func (f *mapFlags) check(machine bool) error {
	var problems []error
	if (f.cert == "") != (f.key == "") {
		problems = append(problems, errors.New("--tls-cert and --tls-key belong together: give both"))
	}
	if f.review && machine {
		problems = append(problems, errors.New("--token-review asks the API server: it is not for a mesh without Kubernetes"))
	}
	if f.cert != "" && !f.review {
		problems = append(problems, errors.New("--tls-cert is for a page of a team: give --token-review, too"))
	}
	if f.audience != mapAudience && !f.review {
		problems = append(problems, errors.New("--token-audience is of the tokens that --token-review reviews: give it, too"))
	}
	if f.every < time.Second || f.every > time.Minute {
		problems = append(problems, fmt.Errorf("--every %v: want 1s to 1m", f.every))
	}
	for _, name := range f.hosts {
		if name == "" || strings.ContainsAny(name, "/:") {
			problems = append(problems, fmt.Errorf("--host %q: want a name without a port", name))
		}
	}
	return errors.Join(problems...)
}

// open listens: beyond loopback only in TLS, as tokens come this way.
func (f *mapFlags) open() (net.Listener, error) {
	if f.cert == "" {
		ln, err := loopback.Listen(f.listen)
		if err != nil {
			return nil, hint(fmt.Errorf("--listen: %v", err), "--listen 127.0.0.1:0 takes any free port; beyond loopback give --token-review, --tls-cert and --tls-key")
		}
		return ln, nil
	}
	read := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert, --tls-key: %v", err)
		}
		return &pair, nil
	}
	if _, err := read(); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", f.listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %v", err)
	}
	return tls.NewListener(ln, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return read() },
	}), nil
}

func (c *command) serveMap(ctx context.Context, f mapFlags) error {
	if err := errors.Join(f.check(c.from.machine()), c.from.check()); err != nil {
		return err
	}
	source, err := c.from.fleet()
	if err != nil {
		return err
	}
	ln, err := f.open()
	if err != nil {
		return err
	}
	defer ln.Close()
	history := &livemap.History{}
	server := &livemap.Server{History: history, Hosts: f.hosts, Walk: livemap.Walk(source)}
	address := "http://" + ln.Addr().String() + "/"
	if f.review {
		cluster, err := c.from.cluster()
		if err != nil {
			return err
		}
		server.Gate = &livemap.Review{API: cluster.API, Namespaces: history.Namespaces, Audience: f.audience}
	} else {
		token := livemap.NewToken()
		server.Gate = token
		address += "?token=" + string(token)
	}
	if f.cert != "" {
		address = "https" + strings.TrimPrefix(address, "http")
	}
	group, ctx := errgroup.WithContext(ctx)
	if f.health != "" {
		ready, err := net.Listen("tcp", f.health)
		if err != nil {
			return fmt.Errorf("--health-listen: %v", err)
		}
		defer ready.Close()
		group.Go(func() error { return livemap.Serve(ctx, ready, readiness(history)) })
	}
	fmt.Fprintf(c.Stdout, "the map is at %s\n", address)
	log := slog.New(slog.NewTextHandler(c.Stderr, nil))
	group.Go(func() error { return livemap.Serve(ctx, ln, server.Handler()) })
	group.Go(func() error { return history.Watch(ctx, source, f.every, log) })
	group.Go(func() error { return history.Listen(ctx, source, log) })
	return group.Wait()
}

// readiness says whether the map is young.
func readiness(h *livemap.History) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !h.Fresh(time.Now()) {
			http.Error(w, "not ready: the nodes were not asked within two minutes", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}
