// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"fmt"
	"testing"
	"time"
)

// A tenant of 800 policies, all of them new, holds up nobody else's; and however many
// there are, the API server is asked for pages of them and written to so often a second.
func TestNamespacesTakeTurns(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const many = 800
		for i := range many {
			r.apply(fmt.Sprintf(`{kind: AuthorizationPolicy, metadata: {name: p%d, namespace: crowd}, spec: {}}`, i))
		}
		p := r.start()
		const a, z = 5 * time.Second, 10 * time.Second
		r.after(a)
		r.apply(layer7)
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 1: "+saysLayer7)
		r.after(z)
		if n, most := r.writes(), int(writes.Burst+writes.PerSecond*(a+z+2*time.Second).Seconds()); n > most || n < most/2 {
			t.Errorf("%d writes after %v, want %d at most", n, a+z, most)
		}
		if n := r.server.Asked("list " + authorizationPolicies); n != 2 {
			t.Errorf("%d pages of %d", n, pageSize)
		}
		r.after(30 * time.Second)
		if n := r.writes(); n != many+1 {
			t.Errorf("%d writes of %d policies; the log:\n%s", n, many+1, p.log.String())
		}
	})
}

func TestWhatIsDueIsDueOnce(t *testing.T) {
	d := newDue()
	k := func(namespace, name string) (k key) {
		k.Namespace, k.Name.Name = namespace, name
		return k
	}
	for range 3 {
		for _, name := range []string{"1", "2", "3"} {
			d.add(k("a", name))
		}
		d.add(k("b", "1"))
	}
	var got string
	for range 2 {
		for next, ok := d.take(); ok; next, ok = d.take() {
			got += next.Namespace + next.Name.Name + " "
		}
		d.add(k("a", "1")) // again
	}
	if want := "a1 b1 a2 a3 a1 "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if d.take(); len(d.of)+len(d.has)+len(d.turns) != 0 {
		t.Errorf("what is done is kept: %+v", d)
	}
}
