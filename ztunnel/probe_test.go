// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"net/url"
	"strings"
	"testing"
)

func TestAQuestionIsWhole(t *testing.T) {
	const peer, app = "&peer=10.1.2.3:15008&identity=spiffe://cluster.local/ns/shop/sa/db", "&app=10.1.2.4:80&client=10.1.2.5"
	for text, want := range map[string]string{
		"pod=u1":                        "",
		"pod=u1" + peer:                 "",
		"pod=u1" + app:                  "",
		"pod=u1" + peer + app:           "",
		"":                              "pod: want the UID of a pod",
		"pod=u1&peer=10.1.2.3:15008":    "peer and identity: want both, or none",
		"pod=u1&identity=spiffe://td/x": "peer and identity: want both, or none",
		"pod=u1&app=10.1.2.4:80":        "app and client: want both, or none",
		"pod=u1&peer=10.1.2.3&identity=spiffe://td/x":    "peer: ",
		"pod=u1&peer=10.1.2.3:15008&identity=https://td": "identity: ",
		"pod=u1&app=db:80&client=10.1.2.5":               "app: ",
		"pod=u1&app=10.1.2.4:80&client=web":              "client: ",
		"pod=u1&tunnel=10.1.2.3:15008":                   `"tunnel" is no part of a question`,
	} {
		query, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		q, err := question(query)
		if want == "" && (err != nil || q.Pod != "u1" || q.Peer.Addr.IsValid() != query.Has("peer") || q.App.IsValid() != query.Has("app")) {
			t.Errorf("%s: %+v, %v", text, q, err)
		}
		if want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
