// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"maps"
	"testing"
)

func TestABundleHasOneGenerationForASetWhateverItsOrder(t *testing.T) {
	c := newCA(t)
	if generation, roots := c.Bundle(); generation != 0 || roots != nil {
		t.Errorf("a CA that is not open has bundle %d", generation)
	}
	files := made(t)
	one, two := string(files[RootFile]), string(made(t)[RootFile])
	var last uint64
	for _, step := range []struct {
		name, roots string
		same        bool
	}{
		{"the first", one, false},
		{"the same", one, true},
		{"one is added", one + two, false},
		{"in another order", two + one, true},
		{"one twice", two + one + two, true},
		{"one is dropped", one, false},
		{"one comes back", two + one, false},
	} {
		next := maps.Clone(files)
		next[RootFile] = []byte(step.roots)
		if _, err := c.Take(next); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		generation, _ := c.Bundle()
		if generation < last || (generation == last) != step.same {
			t.Errorf("%s: generation %d after %d", step.name, generation, last)
		}
		last = generation
	}
}

func TestWhoeverWaitsHearsOfAnotherIssuerAndOnlyOfAnother(t *testing.T) {
	files := made(t)
	c := newCA(t)
	take := func(files Files) {
		t.Helper()
		if _, err := c.Take(files); err != nil {
			t.Fatal(err)
		}
	}
	changed := c.Changed()
	take(files)
	<-changed
	if generation, roots := c.Bundle(); generation == 0 || len(roots) != 1 || !roots[0].Equal(c.Roots()[0]) {
		t.Errorf("bundle %d of %d roots", generation, len(roots))
	}
	changed = c.Changed()
	take(files)
	select {
	case <-changed:
		t.Error("told of nothing new")
	default:
	}
	take(reissued(t, files, nil))
	<-changed
}
