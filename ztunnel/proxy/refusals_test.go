// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"strings"
	"testing"
)

func TestAPodRemembersItsLastRefusalsAndNoMore(t *testing.T) {
	var r refusals
	c := &connection{record: record{direction: outbound}}
	for i := range 3 * remembered {
		r.add(c, &outcome{word: Dial, err: errors.New(strings.Repeat("x", i+2*maxSaid))})
	}
	r.add(c, &outcome{word: Denied, policy: "AuthorizationPolicy shop/no"})
	if n := len(r.last); n != remembered || cap(r.last) > 2*remembered {
		t.Errorf("%d are remembered, of room for %d", n, cap(r.last))
	}
	if first, last := r.last[0], r.last[remembered-1]; len(first.Error) != maxSaid || last.Result != Denied || last.Policy == "" {
		t.Errorf("%+v, %+v", first, last)
	}
}
