// SPDX-License-Identifier: Apache-2.0

package catest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// Place is where one CA may live.
type Place interface {
	// Store is one process's store of it.
	Store(t testing.TB) ca.Store
	// Set has another hand put files there, in place of all that is there but for the
	// Record.
	Set(t testing.TB, files ca.Files)
	// Files are what is there, without the Record; nil for nothing at all.
	Files(t testing.TB) ca.Files
}

// Conform tells what every store of a CA does. New makes a place where no CA ever was.
func Conform(t *testing.T, fresh func(t *testing.T) Place) {
	for name, story := range map[string]func(*testing.T, Place){
		"many first starts at once make one CA":            oneIsMade,
		"what is there is never written over":              nothingIsWrittenOver,
		"a part of a CA is refused by name":                partsAreRefused,
		"one of many that replace at once does":            oneReplaces,
		"a generation is kept, and is the same for all":    generationsAreKept,
		"a process that is behind numbers no older set":    theLateDoNotNumber,
		"another hand's change is told, and taken at once": changesAreTold,
	} {
		t.Run(name, func(t *testing.T) { story(t, fresh(t)) })
	}
}

// A001-7: dapr#2187, several replicas that start cold make several roots.
func oneIsMade(t *testing.T, place Place) {
	if files := place.Files(t); files != nil {
		t.Fatalf("not fresh: %v", files)
	}
	var all sync.WaitGroup
	cas := make([]*ca.CA, 16)
	for i := range cas {
		store := place.Store(t)
		all.Go(func() { cas[i] = Load(t, store) })
	}
	all.Wait()
	files := place.Files(t)
	one := Load(t, place.Store(t))
	want, _ := one.Bundle()
	for i, c := range cas {
		generation, roots := c.Bundle()
		if len(roots) != 1 || !roots[0].Equal(one.Roots()[0]) || !c.Issuer().Equal(one.Issuer()) {
			t.Errorf("start %d has another CA than the store", i)
		}
		if generation != want {
			t.Errorf("start %d has generation %d, the store %d", i, generation, want)
		}
	}
	if !place.Files(t).Same(files) {
		t.Error("a later start changed it")
	}
}

func nothingIsWrittenOver(t *testing.T, place Place) {
	for name, files := range map[string]ca.Files{
		"a CA":                Made(t),
		"a CA of an operator": Reissued(t, Made(t)),
	} {
		place.Set(t, files)
		store := place.Store(t)
		if err := store.Create(t.Context(), Made(t)); !errors.Is(err, ca.ErrExists) {
			t.Errorf("%s: %v, want %v", name, err, ca.ErrExists)
		}
		if c := Load(t, store); len(c.Roots()) != 1 {
			t.Errorf("%s: %d roots", name, len(c.Roots()))
		}
		if !place.Files(t).Same(files) {
			t.Errorf("%s was changed", name)
		}
	}
}

// A000-2, A001-10: the same is refused wherever it is found.
func partsAreRefused(t *testing.T, place Place) {
	whole := Made(t)
	for _, name := range []string{ca.RootFile, ca.IssuerFile, ca.IssuerKeyFile} {
		part := maps.Clone(whole)
		delete(part, name)
		place.Set(t, part)
		c, err := ca.New(ca.Options{TrustDomain: TrustDomain})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Load(t.Context(), place.Store(t)); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "empty the") {
			t.Errorf("without %s: %v", name, err)
		}
		if !place.Files(t).Same(part) {
			t.Errorf("without %s: it was changed", name)
		}
	}
	// The root's key is needed to make issuers, and for nothing else.
	offline := maps.Clone(whole)
	delete(offline, ca.RootKeyFile)
	place.Set(t, offline)
	Load(t, place.Store(t))
}

func oneReplaces(t *testing.T, place Place) {
	Load(t, place.Store(t))
	was, err := place.Store(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var won []ca.Files
	var all sync.WaitGroup
	for range 8 {
		store, next := place.Store(t), Reissued(t, was)
		next = ca.Files{ca.IssuerFile: next[ca.IssuerFile], ca.IssuerKeyFile: next[ca.IssuerKeyFile]}
		if _, err := store.Read(t.Context()); err != nil { // as whoever replaces has done
			t.Fatal(err)
		}
		all.Go(func() {
			switch err := store.Replace(t.Context(), was, next); {
			case err == nil:
				mu.Lock()
				defer mu.Unlock()
				won = append(won, next)
			case !errors.Is(err, ca.ErrChanged):
				t.Errorf("%v, want %v", err, ca.ErrChanged)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d did, want one", len(won))
	}
	want := maps.Clone(was)
	maps.Copy(want, won[0])
	if !place.Files(t).Same(want) {
		t.Error("the store holds something else than the one that was told so put there")
	}
}

func generationsAreKept(t *testing.T, place Place) {
	first := Load(t, place.Store(t))
	one, _ := first.Bundle()
	if again, _ := Load(t, place.Store(t)).Bundle(); again != one || one == 0 {
		t.Errorf("generation %d after a restart, was %d", again, one)
	}
	more := place.Files(t)
	more[ca.RootFile] = append(append([]byte{}, more[ca.RootFile]...), Made(t)[ca.RootFile]...)
	place.Set(t, more)
	two, roots := Load(t, place.Store(t)).Bundle()
	if two <= one || len(roots) != 2 {
		t.Errorf("generation %d of %d roots, was %d of one", two, len(roots), one)
	}
	if again, _ := Load(t, place.Store(t)).Bundle(); again != two {
		t.Errorf("generation %d after another restart, was %d", again, two)
	}
}

// A process has read the store, and is slow. Meanwhile another one numbers a younger
// set. What the first one read then must not get a number that makes it look younger.
func theLateDoNotNumber(t *testing.T, place Place) {
	Load(t, place.Store(t))
	late := place.Store(t)
	old, err := late.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	more := place.Files(t)
	more[ca.RootFile] = append(append([]byte{}, more[ca.RootFile]...), Made(t)[ca.RootFile]...)
	place.Set(t, more)
	want, _ := Load(t, place.Store(t)).Bundle()
	err = late.Replace(t.Context(), old, ca.Files{ca.BundleFile: ca.Record{Generation: want + 1, Roots: []string{"of old"}}.Encode()})
	if !errors.Is(err, ca.ErrChanged) {
		t.Errorf("%v, want %v", err, ca.ErrChanged)
	}
	if got, roots := Load(t, place.Store(t)).Bundle(); got != want || len(roots) != 2 {
		t.Errorf("generation %d of %d roots, want %d of 2", got, len(roots), want)
	}
}

// A001-1, A002-19: within 2 s.
func changesAreTold(t *testing.T, place Place) {
	store := place.Store(t)
	c, err := ca.New(ca.Options{TrustDomain: TrustDomain})
	if err != nil {
		t.Fatal(err)
	}
	k := ca.NewKeeper(ca.KeeperOptions{CA: c, Store: store})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) })
	defer running.Wait()
	defer cancel()
	until(t, "it is open", func() bool { return k.Waiting() == nil })
	changes := uint64(0)
	change := func() time.Duration {
		changes++
		changed := c.Changed()
		next := Reissued(t, place.Files(t))
		began := time.Now()
		place.Set(t, next)
		select {
		case <-changed:
		case <-time.After(30 * time.Second):
			t.Fatal("never taken")
		}
		took := time.Since(began)
		if string(c.Issuer().Raw) != string(block(next[ca.IssuerFile])) {
			t.Error("another issuer than the one that was put there")
		}
		return took
	}
	for range 2 {
		took := change()
		for try := 0; try < 2 && took > 2*time.Second; try++ { // the machine may stand still once
			took = change()
		}
		if took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	until(t, "it is counted", func() bool { return k.Events()[ca.IssuerUpdated] == changes })
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
