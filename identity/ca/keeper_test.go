// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// kept is a Keeper of a store, what it told and what it logged.
type kept struct {
	*Keeper
	told *[]Event
	log  *bytes.Buffer
}

func keep(t *testing.T, store Store) kept {
	t.Helper()
	k := kept{told: new([]Event), log: new(bytes.Buffer)}
	k.Keeper = NewKeeper(KeeperOptions{
		CA: newCA(t), Store: store, Log: slog.New(slog.NewTextHandler(k.log, nil)),
		Tell: func(e Event) { *k.told = append(*k.told, e) },
	})
	return k
}

func open(t *testing.T, store Store) kept {
	t.Helper()
	k := keep(t, store)
	if err := k.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

// last is the reason told last, and what it says.
func (k kept) last() (Reason, string) {
	if len(*k.told) == 0 {
		return "", ""
	}
	e := (*k.told)[len(*k.told)-1]
	return e.Reason, e.Message
}

// A000-16, A002-18, A002-20, A004-14: each way in which a store changes has its word.
func TestWhatHappensToAStoreIsToldByItsReason(t *testing.T) {
	first := made(t)
	second, another := reissued(t, first, nil), made(t)
	both := maps.Clone(second)
	both[RootFile] = append(bytes.Clone(second[RootFile]), another[RootFile]...)
	delete(both, RootKeyFile) // it is of one of them
	others := maps.Clone(both)
	others[IssuerFile], others[IssuerKeyFile] = another[IssuerFile], another[IssuerKeyFile]
	with := func(files Files, name, text string) Files {
		files = maps.Clone(files)
		files[name] = []byte(text)
		return files
	}
	store := &Memory{}
	store.Set(first)
	k := open(t, store)
	for _, step := range []struct {
		name   string
		files  Files
		reason Reason // told last; none: nothing is told
		says   string
	}{
		{"the same", first, "", ""},
		{"another issuer", second, IssuerUpdated, "another issuer signs: "},
		{"a comment", with(second, RootFile, "# ours\n"+string(second[RootFile])), IssuerUpdateSkipped, "the same CA as before"},
		{"garbage", with(second, IssuerFile, "garbage"), IssuerValidationFailed, "issuer.pem holds no PEM"},
		{"the same garbage", with(second, IssuerFile, "garbage"), "", ""},
		{"other garbage", with(second, IssuerFile, "garbage!"), IssuerValidationFailed, "issuer.pem holds no PEM"},
		{"a key of another issuer", with(second, IssuerKeyFile, string(first[IssuerKeyFile])), IssuerValidationFailed, "issuer.key does not belong to issuer.pem"},
		{"another CA", another, IssuerValidationFailed, "issuer.pem is under a root that nodes do not trust yet: add the root to root.pem first"},
		{"a root is added", both, RootAdded, "nodes are to trust another root: "},
		{"in another order", with(both, RootFile, string(another[RootFile])+string(second[RootFile])), IssuerUpdateSkipped, "the same CA as before"},
		{"the root in use is dropped", with(both, RootFile, string(another[RootFile])), IssuerValidationFailed, "not signed by"},
		{"an issuer of the added root", others, IssuerUpdated, "another issuer signs: "},
		{"the root of before is dropped", another, RootDropped, "no longer to trust a root: "},
		{"and comes with its issuer", second, IssuerValidationFailed, "under a root that nodes do not trust yet"},
	} {
		store.Set(step.files)
		before, issuer := len(*k.told), k.ca.Issuer()
		events := k.Events()[step.reason]
		err := k.look(t.Context())
		if (err != nil) != (step.reason == IssuerValidationFailed || step.name == "the same garbage") {
			t.Errorf("%s: %v", step.name, err)
		}
		if step.reason == "" {
			if len(*k.told) != before {
				t.Errorf("%s: told %v", step.name, (*k.told)[before:])
			}
			continue
		}
		reason, says := k.last()
		if reason != step.reason || !strings.Contains(says, step.says) || len(*k.told) != before+1 {
			t.Errorf("%s: told %v, want %s and %q", step.name, (*k.told)[before:], step.reason, step.says)
		}
		if k.Events()[step.reason] != events+1 {
			t.Errorf("%s: %s is not counted", step.name, step.reason)
		}
		if err != nil && !k.ca.Issuer().Equal(issuer) {
			t.Errorf("%s: the issuer in force went", step.name)
		}
	}
	if _, roots := k.ca.Bundle(); len(roots) != 1 || string(encodeCert(roots[0])) != string(another[RootFile]) {
		t.Errorf("%d roots", len(roots))
	}
}

// A root must not go in the step in which its issuer does: leaves of that are in use.
func TestARootIsNotDroppedWithTheIssuerThatLeavesAreOf(t *testing.T) {
	first, another := made(t), made(t)
	both := maps.Clone(first)
	both[RootFile] = append(bytes.Clone(first[RootFile]), another[RootFile]...)
	store := &Memory{}
	store.Set(both)
	k := open(t, store)
	issuer := k.ca.Issuer()
	store.Set(another)
	if err := k.look(t.Context()); err == nil || !strings.Contains(err.Error(), "lacks the root that the issuer in force needs") {
		t.Error(err)
	}
	if _, roots := k.ca.Bundle(); len(roots) != 2 || !k.ca.Issuer().Equal(issuer) {
		t.Error("it was taken")
	}
}

// A004-20: the whole chain, with what tells it from others.
func TestTheLogSaysWhichChainSigns(t *testing.T) {
	first := made(t)
	store := &Memory{}
	store.Set(first)
	k := open(t, store)
	store.Set(reissued(t, first, nil))
	if err := k.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	issuer := k.ca.Issuer()
	for _, want := range []string{
		"certificate authority is open", "layout=culvert", "reason=IssuerUpdated", fmt.Sprintf("serial %x", issuer.SerialNumber), Fingerprint(issuer),
		Fingerprint(k.ca.Roots()[0]), stamp(issuer.NotBefore), stamp(issuer.NotAfter), "generation=",
	} {
		if !strings.Contains(k.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, k.log)
		}
	}
	if strings.Contains(k.log.String(), "PRIVATE KEY") {
		t.Error("a key in the log")
	}
}

// unsteady is a store that can be away, and whose CA can be gone.
type unsteady struct {
	Memory
	err     error // of Read
	creates int
}

func (u *unsteady) Read(ctx context.Context) (Files, error) {
	if u.err != nil {
		return nil, u.err
	}
	return u.Memory.Read(ctx)
}

func (u *unsteady) Create(ctx context.Context, files Files) error {
	u.creates, u.err = u.creates+1, nil
	u.Set(nil)
	return u.Memory.Create(ctx, files)
}

func TestAStoreThatIsAwayChangesNothingAndIsSaidOnce(t *testing.T) {
	store := &unsteady{}
	k := open(t, store)
	issuer := k.ca.Issuer()
	store.err = fmt.Errorf("%w: no route to host", ErrUnreachable)
	for range 3 {
		if err := k.look(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
	}
	if !k.ca.Issuer().Equal(issuer) || len(*k.told) > 0 || strings.Count(k.log.String(), "no route to host") != 1 {
		t.Errorf("told %v; log:\n%s", *k.told, k.log)
	}
	store.err = nil
	if err := k.look(t.Context()); err != nil || !strings.Contains(k.log.String(), "well again") {
		t.Errorf("%v; log:\n%s", err, k.log)
	}
}

func TestACAThatIsGoneFromItsStoreIsPutBackAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &unsteady{}
		k := open(t, store)
		before := made(t)
		store.Set(before) // what is put back is what is in force, not this: it is refused
		_ = k.look(t.Context())
		store.err, store.creates = ErrGone, 0
		began := time.Now()
		for store.creates == 0 {
			_ = k.look(t.Context())
			time.Sleep(time.Second)
		}
		if after := time.Since(began); after < restoreAfter || after > restoreAfter+2*time.Second {
			t.Errorf("after %v", after)
		}
		files, _ := store.Memory.Read(t.Context())
		if string(files[IssuerFile]) != string(encodeCert(k.ca.Issuer())) {
			t.Error("with another CA than the one in force")
		}
		if n := k.Events(); n[StoreLost] != 1 || n[StoreRestored] != 1 {
			t.Errorf("counted %v", n)
		}
		if err := k.look(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Files of a directory that vanish are not written again: what is mounted there now
// may be another disk.
func TestADirectoryThatIsEmptyNowIsNotFilledAgain(t *testing.T) {
	store := &Memory{}
	k := open(t, store)
	issuer := k.ca.Issuer()
	store.Set(nil)
	for range 3 {
		if err := k.look(t.Context()); !errors.Is(err, ErrGone) {
			t.Fatal(err)
		}
	}
	if files, _ := store.Read(t.Context()); files != nil || !k.ca.Issuer().Equal(issuer) || k.Events()[StoreLost] != 1 {
		t.Errorf("files %v, told %v", files, *k.told)
	}
}

// failing is a store that cannot keep a record.
type failing struct {
	Memory
	err error // of Replace
}

func (f *failing) Replace(ctx context.Context, was, next Files) error {
	if f.err != nil {
		return f.err
	}
	return f.Memory.Replace(ctx, was, next)
}

// A full disk must not keep a CA from its nodes.
func TestAGenerationThatIsNotKeptIsServedAndKeptLater(t *testing.T) {
	store := &failing{err: errors.New("no space left on device")}
	k := open(t, store)
	generation, _ := k.ca.Bundle()
	if generation == 0 {
		t.Fatal("no generation")
	}
	if err := k.look(t.Context()); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v", err)
	}
	if n := k.Events()[IssuerValidationFailed]; n != 0 {
		t.Error("it counts as a CA that is refused")
	}
	store.err = nil
	if err := k.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, _ := open(t, store).ca.Bundle(); again != generation {
		t.Errorf("generation %d is kept, %d was served", again, generation)
	}
}

func TestABrokenRecordIsWrittenAnew(t *testing.T) {
	for _, broken := range []string{`{"generation":`, `{"generation": 18446744073709551615, "roots": []}`, `{"generation": -1}`, "[]"} {
		store := &Memory{}
		store.Set(made(t))
		before, _ := open(t, store).ca.Bundle()
		files, _ := store.Read(t.Context())
		files[BundleFile] = []byte(broken)
		store.Set(files)
		after, _ := open(t, store).ca.Bundle()
		if after < before || after > maxGeneration {
			t.Errorf("%s: generation %d, was %d", broken, after, before)
		}
		files, _ = store.Read(t.Context())
		if record, err := ParseRecord(files[BundleFile]); err != nil || record.Generation != after {
			t.Errorf("%s: %+v, %v", broken, record, err)
		}
	}
}

// An operator's issuer that is old already when it comes is said in the same look.
func TestAnOldIssuerThatIsNotRenewedIsSaidWhenItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		first := made(t)
		store.Set(first)
		k := open(t, store)
		old := reissued(t, first, nil)
		time.Sleep(40 * time.Minute)
		store.Set(old)
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if k.Events()[IssuerExpiring] != 1 {
			t.Errorf("told %v", *k.told)
		}
	})
}

func TestWhatIsWrongWithTheStoreCanBeAskedFor(t *testing.T) {
	store := &Memory{}
	k := open(t, store)
	store.Set(Files{RootFile: []byte("garbage")})
	if k.look(t.Context()) == nil || !strings.Contains(k.Trouble().Problem, "issuer.pem is missing") || k.Trouble().Since.IsZero() {
		t.Errorf("%+v", k.Trouble())
	}
	store.Set(k.Keeper.last)
	if err := k.look(t.Context()); err != nil || k.Trouble() != (Trouble{}) {
		t.Errorf("%v, %+v", err, k.Trouble())
	}
}

func TestACAThatMustExistIsNotMade(t *testing.T) {
	store := &Memory{}
	c, err := New(Options{TrustDomain: td, MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Load(t.Context(), store); err == nil || !strings.Contains(err.Error(), "memory holds no CA yet, and none is to be made") {
		t.Error(err)
	}
	if files, _ := store.Read(t.Context()); files != nil {
		t.Error("one was made")
	}
	store.Set(made(t))
	if err := c.Load(t.Context(), store); err != nil {
		t.Error(err)
	}
}

// C.2: replicas that hear of a change at different times end with one generation.
func TestReplicasOfOneStoreAgreeOnTheGeneration(t *testing.T) {
	store := &Memory{}
	first := made(t)
	store.Set(first)
	var replicas []kept
	for range 3 {
		replicas = append(replicas, open(t, store))
	}
	set := func(roots string) {
		files, _ := store.Read(t.Context())
		files[RootFile] = []byte(roots)
		store.Set(files)
	}
	ours, more := string(first[RootFile]), string(made(t)[RootFile])
	var last uint64
	for _, heard := range [][]int{{0, 1, 2}, {2, 1, 0}, {1}, {1, 0, 2}, {0}, {}, {2, 0, 1}} {
		set(ours + more)
		ours, more = more, ours
		if len(heard)%2 == 0 {
			set(string(first[RootFile])) // and away again, which some never see
		}
		var all sync.WaitGroup
		for _, i := range heard {
			all.Go(func() {
				if err := replicas[i].look(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	for range 2 { // after the last change, all look once, and once more
		for _, r := range replicas {
			if err := r.look(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	want, roots := replicas[0].ca.Bundle()
	for _, r := range replicas[1:] {
		got, others := r.ca.Bundle()
		if got != want || len(others) != len(roots) || got <= last {
			t.Errorf("generations %d and %d of %d and %d roots", got, want, len(others), len(roots))
		}
	}
}
