// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// renewFor bounds the renewals of one node: ztunnel itself gives up after 30 s.
const renewFor = 45 * time.Second

// Renewed is what became of one identity on one node.
type Renewed struct {
	Identity string    `json:"identity"`
	Held     bool      `json:"held"`             // by a pod of the node
	Serial   string    `json:"serial,omitempty"` // of the certificate that came
	Until    time.Time `json:"until,omitzero"`   // when it ends
	Error    string    `json:"error,omitempty"`  // why none came
}

// Renew has a target's ztunnel renew certificates now, all of them if none is named. Its
// error is for a row of a table.
func (t Target) Renew(ctx context.Context, identities []string) (all []Renewed, err error) {
	if t.renew == nil {
		return nil, errors.New("no way to its socket is known")
	}
	ctx, cancel := context.WithTimeout(ctx, renewFor)
	defer cancel()
	answer, err := t.renew(ctx, identities)
	if err == nil {
		if err = json.Unmarshal(answer, &all); err != nil {
			err = fmt.Errorf("its answer is not understood: %v", err)
		}
	}
	return all, err
}

// Sockets are ztunnels of this machine, by the sockets that only root reaches.
func Sockets(paths []string) (all []Target) {
	for _, path := range paths {
		dial := func(ctx context.Context, _ int) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		all = append(all, Target{
			Name: path, Ready: true, dial: dial,
			renew: func(ctx context.Context, identities []string) ([]byte, error) {
				query := url.Values{"id": identities}
				if len(identities) == 0 {
					query = url.Values{"all": {""}}
				}
				return post(ctx, dial, "/certs/renew?"+query.Encode())
			},
			probe: func(ctx context.Context, q Question) ([]byte, error) {
				return post(ctx, dial, "/probe?"+q.query().Encode())
			},
			verify: func(ctx context.Context, query url.Values) ([]byte, error) {
				return post(ctx, dial, "/verify?"+query.Encode())
			},
			level: func(ctx context.Context, level string) ([]byte, error) {
				return post(ctx, dial, levelQuery(level))
			},
		})
	}
	return all
}

// SocketsOf is a Source of ztunnels of this machine, by their sockets.
type SocketsOf []string

// Ztunnels is part of Source.
func (s SocketsOf) Ztunnels(context.Context) ([]Target, error) { return Sockets(s), nil }

// CAs is part of Source.
func (s SocketsOf) CAs(context.Context) ([]Target, error) { return nil, nil }

// post asks for what a socket does for root alone.
func post(ctx context.Context, dial func(context.Context, int) (net.Conn, error), target string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, 0) },
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://ztunnel"+target, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, plain(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, firstLine(body))
	}
	return body, err
}

// inPod is a command of ztunnel in its container. args are the program's own: its socket is
// in its -state-dir.
func inPod(args []string, word string) []string {
	return append([]string{"/bin/ztunnel", word}, stateDir(args)...)
}

// renewArgs is the command that renews.
func renewArgs(args, identities []string) []string {
	if len(identities) == 0 {
		return append(inPod(args, "renew"), "-all")
	}
	return append(inPod(args, "renew"), "-identities="+strings.Join(identities, ","))
}

// bounded keeps the first bytes of a stream, and fails if there are more.
type bounded struct {
	text bytes.Buffer // not embedded: its ReadFrom knows no bound
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > b.most {
		return 0, fmt.Errorf("it is longer than %d bytes", b.most)
	}
	return b.text.Write(p)
}
