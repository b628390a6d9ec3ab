// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"strings"
	"testing"
)

func TestAPodRemembersItsLastRefusalsAndNoMore(t *testing.T) {
	p := new(Pod)
	r := &p.refusals
	c := &connection{record: record{direction: outbound}}
	for i := range 3 * remembered {
		r.add(c, &outcome{word: Dial, err: errors.New(strings.Repeat("x", i+2*maxSaid))})
	}
	r.add(c, &outcome{word: Denied, policy: "AuthorizationPolicy shop/no"})
	all := p.LastRefused()
	if len(all) != remembered || cap(r.last) > 2*remembered {
		t.Fatalf("%d are remembered, of room for %d", len(all), cap(r.last))
	}
	if first, last := all[0], all[remembered-1]; len(first.Error) != maxSaid || last.Result != Denied || last.Policy == "" {
		t.Errorf("%+v, %+v", first, last)
	}
}
