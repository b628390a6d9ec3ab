// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// clusterNodes is an API server that knows one Node.
type clusterNodes struct {
	uid  string // empty: there is none
	away bool
	err  error // instead of an answer
	asks int
}

func (c *clusterNodes) ask(_ context.Context, name string) (string, bool, error) {
	c.asks++
	if c.away {
		return "", false, errors.New("connection refused")
	}
	if c.err != nil {
		return "", false, c.err
	}
	return c.uid, c.uid != "" && name == "node-1", nil
}

// C.3, 2: the name of a machine that was taken out of the cluster may be given again. The
// token that the former one took along is not the new one's, whatever it names.
func TestATokenIsOfTheNodeThatHasItsNameNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &clusterNodes{uid: "former"}
		p := NewPlacement()
		p.AskNode = api.ask
		former, next := Caller{Node: "node-1", NodeUID: "former"}, Caller{Node: "node-1", NodeUID: "next"}
		is := func(what string, caller Caller, reason identityv1.Reason, away bool) {
			t.Helper()
			err := p.sameNode(t.Context(), caller)
			var refused *Refused
			if errors.As(err, &refused); (refused == nil) != (reason == 0) || refused != nil && refused.Reason != reason || errors.Is(err, ErrUnavailable) != away {
				t.Errorf("%s: %v", what, err)
			}
		}
		for range 100 {
			is("the node", former, 0, false)
		}
		time.Sleep(nodeFresh - time.Second)
		if is("within five minutes", former, 0, false); api.asks != 1 {
			t.Errorf("the API server was asked %d times", api.asks)
		}
		api.uid = "next"
		is("the next, at once", next, 0, false)
		is("the former", former, identityv1.Reason_TOKEN_NODE_DIFFERS, false)
		is("the next, again", next, 0, false)

		// Nodes go on while the API server is away, as long as its word counts otherwise.
		api.away = true
		time.Sleep(proofStale - time.Second)
		is("the next, nobody to ask", next, 0, false)
		is("the former, nobody to ask", former, identityv1.Reason_API_UNAVAILABLE, true)
		time.Sleep(2 * time.Second)
		is("the next, after an hour", next, identityv1.Reason_API_UNAVAILABLE, true)
		is("a token without UID", Caller{Node: "node-1"}, 0, false)

		api.away, api.uid = false, ""
		is("no node", next, identityv1.Reason_TOKEN_NODE_DIFFERS, false)
		api.away = true
		is("no node, nobody to ask", next, identityv1.Reason_API_UNAVAILABLE, true)
	})
}

// Whoever manages the CA's rights apart from the CA may upgrade the CA first. That is no
// outage: nodes are known by their names, and the log says which right is missing.
func TestACAThatMayNotGetNodesKnowsThemByTheirNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &clusterNodes{uid: "uid", err: fmt.Errorf("get Node: %w", apierrors.NewForbidden(corev1.Resource("nodes"), "node-1", errors.New("no rule")))}
		log := &lines{}
		p := NewPlacement()
		p.AskNode, p.Log = api.ask, slog.New(slog.NewJSONHandler(log, nil))
		serve := func(uid string) {
			t.Helper()
			for node := range 3 {
				if err := p.sameNode(t.Context(), Caller{Node: fmt.Sprintf("node-%d", node), NodeUID: uid}); err != nil {
					t.Errorf("node-%d: %v", node, err)
				}
			}
		}
		for range 100 {
			serve("uid")
		}
		if api.asks != 3 {
			t.Errorf("the API server was asked %d times about 3 nodes", api.asks)
		}
		if records := log.take(t); len(records) != 1 || records[0]["level"] != "ERROR" || !strings.Contains(records[0]["msg"].(string), "the verb get on nodes") {
			t.Errorf("log %v", records)
		}
		time.Sleep(forbiddenFresh + time.Second)
		if serve("uid"); api.asks != 6 || len(log.take(t)) != 1 {
			t.Errorf("a minute later: asked %d times", api.asks)
		}
		api.away = true
		time.Sleep(forbiddenFresh + time.Second)
		serve("uid")

		// Once the CA may ask, the UID decides.
		api.away, api.err = false, nil
		var refused *Refused
		if err := p.sameNode(t.Context(), Caller{Node: "node-1", NodeUID: "former"}); !errors.As(err, &refused) || refused.Reason != identityv1.Reason_TOKEN_NODE_DIFFERS {
			t.Errorf("another node's token, once the CA may ask: %v", err)
		}
		if records := log.take(t); len(records) != 0 {
			t.Errorf("log %v", records)
		}
	})
}

// A node costs the API server few questions, and the CA little memory.
func TestQuestionsAboutANodeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &clusterNodes{uid: "uid"}
		p := NewPlacement()
		p.AskNode = api.ask
		for range 200 {
			if err := p.sameNode(t.Context(), Caller{Node: "node-1", NodeUID: "other"}); err == nil {
				t.Fatal("another node's token is good")
			}
		}
		if api.asks != int(nodeQuestions.Burst) {
			t.Errorf("asked %d times", api.asks)
		}
		for i := range maxNodes + 100 {
			p.nodes.put(time.Duration(i).String(), "uid")
		}
		if n := len(p.nodes.known); n != maxNodes {
			t.Errorf("%d nodes are remembered", n)
		}
	})
}

// Also where keys of a file or an issuer verify tokens: they say their node's UID, too.
func TestATokenThatAKeyVerifiesIsOfTheNodeThatHasItsNameNow(t *testing.T) {
	j := attestor(t, jwks(t, goodKeys()...))
	j.Placement = NewPlacement()
	api := &clusterNodes{uid: "node-uid"}
	j.Placement.AskNode = api.ask
	if _, err := j.Attest(t.Context(), goodToken(t)); err != nil {
		t.Error(err)
	}
	j.Placement.nodes.forget("node-1")
	api.uid = "another"
	var refused *Refused
	if _, err := j.Attest(t.Context(), goodToken(t)); !errors.As(err, &refused) || refused.Reason != identityv1.Reason_TOKEN_NODE_DIFFERS {
		t.Errorf("the token of another node: %v", err)
	}
}
