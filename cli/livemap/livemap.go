// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// Watch asks the nodes of a source again and again until ctx is done. It rests for at least
// as long as they took to answer.
func (h *History) Watch(ctx context.Context, source fleet.Source, every time.Duration, log *slog.Logger) error {
	problem, twice := "", ""
	for {
		began := time.Now()
		nodes, err := fleet.Lean(ctx, source)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			h.Add(nodes, time.Now())
			twice = tell(log, "several names lead to one node", twice, foundTwice(nodes))
		}
		problem = tell(log, "the nodes cannot be asked", problem, err)
		if !wait(ctx, max(every-time.Since(began), time.Since(began))) {
			return nil
		}
	}
}

func foundTwice(nodes []fleet.Node) error {
	var all []error
	for _, n := range nodes {
		if said := n.Twice(); said != "" {
			all = append(all, errors.New(said))
		}
	}
	return errors.Join(all...)
}

// tell says what is wrong when that has changed.
func tell(log *slog.Logger, what, before string, err error) string {
	now := ""
	if err != nil {
		now = err.Error()
	}
	if now != "" && now != before {
		log.Warn(what, "error", now)
	}
	return now
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Serve answers on ln until ctx is done. Streams end with it.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := context.AfterFunc(ctx, func() { server.Close() })
	defer stopped()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
